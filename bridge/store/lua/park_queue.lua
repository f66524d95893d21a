#!lua flags=allow-oom
-- Park a subscription's queue in one shard: nobody serves it, and it is in no index.
--
-- KEYS  1 index  2 state  3 registry
-- ARGV  1 queue's index member  2 the registry version in which its subscription is paused or disabled
--
-- Returns 1, or 0 if the registry has another version and nothing was written: it may have been resumed since.
--
-- A crash before: the slice that comes upon the queue parks it.
if (redis.call('GET', KEYS[3]) or '0') ~= ARGV[2] then
  return 0
end
redis.call('HDEL', KEYS[2], 'gate', 'health')
redis.call('HSET', KEYS[2], 'parked', 1)
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
