#!lua flags=allow-oom
-- Serve a subscription's queue of one shard again.
--
-- KEYS  1 index  2 state  3 queue
-- ARGV  1 queue's index member
--
-- Returns 1. A crash before: its subscription is still noted as being released, and bridge.trim goes on.
redis.call('HDEL', KEYS[2], 'parked', 'gate', 'health', 'filled')
local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
if first[2] then
  redis.call('ZADD', KEYS[1], first[2], ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return 1
