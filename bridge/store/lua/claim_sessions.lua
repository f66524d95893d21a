#!lua flags=allow-oom
-- Lease sessions that are due: their due time moves to the lease's end, and comes back by itself after a crash.
--
-- KEYS  1 index  2 due
-- ARGV  1 account's index member  2 lease in ms  3 most sessions
--
-- Returns {now in Unix ms, SessionNo…}, the longest due first.
--
-- A crash before: nothing happened. After, or a lost reply: they are due again when the lease ends.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local result = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[3])
local lease_end = now + tonumber(ARGV[2])
for _, no in ipairs(result) do
  redis.call('ZADD', KEYS[2], lease_end, no)
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if first[2] then
  redis.call('ZADD', KEYS[1], first[2], ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
table.insert(result, 1, now)
return result
