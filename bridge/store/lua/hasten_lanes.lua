#!lua flags=allow-oom
-- Make lanes due now whose retry lies ahead: their receiver is back.
--
-- KEYS  1 index  2 hold  3 queue  4 state
-- ARGV  1 queue's index member  2 token  3 most lanes
--
-- Returns how many, -1 if another token holds the queue. The caller has no lane of it leased.
--
-- A crash before or after: the health that asks for it is still noted, and the next holder goes on.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[2] then
  return -1
end
local state = redis.call('HMGET', KEYS[4], 'parked', 'gate')
local later = redis.call('ZRANGEBYSCORE', KEYS[3], string.format('(%d', now), '+inf', 'LIMIT', 0, ARGV[3])
for _, lane in ipairs(later) do
  redis.call('ZADD', KEYS[3], now, lane)
end
local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
if first[2] and not state[1] then
  redis.call('ZADD', KEYS[1], math.max(tonumber(first[2]), tonumber(state[2] or 0)), ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return #later
