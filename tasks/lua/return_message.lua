#!lua flags=allow-oom
-- Put a message that was taken back into its queue.
--
-- KEYS  1 taken (hash)  2 leases (zset)  3 the queue that it was taken from
-- ARGV  1 tag  2 'next' (to be taken next) or 'last'  3 'over' (only if its lease is over) or 'any'
--
-- Returns 1 if it is back, 0 if it is held by somebody, or was acknowledged or put back already.
--
-- A crash before: it comes back when its lease ends. After: it is in its queue once.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local message = redis.call('HGET', KEYS[1], ARGV[1])
local ends = redis.call('ZSCORE', KEYS[2], ARGV[1])
if message and ARGV[3] == 'over' and ends and tonumber(ends) > now then
  return 0
end
redis.call('ZREM', KEYS[2], ARGV[1])
if not message then
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call(ARGV[2] == 'next' and 'RPUSH' or 'LPUSH', KEYS[3], message)
return 1
