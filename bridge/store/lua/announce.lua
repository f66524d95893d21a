#!lua
-- Record one event that no session's change is, and put it into one subscription's queue.
--
-- KEYS  1 index  2 log  3 queue  4 lane bucket  5 counts  6 state
-- ARGV  1 record  2 lane (8 bytes), which no other event has  3 queue's index member
--
-- Returns now in Unix ms.
--
-- A crash before or after leaves nothing or all. A caller that lost the reply and asks again makes a second event.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local state = redis.call('HMGET', KEYS[6], 'parked', 'gate')
local ms, seq = string.match(redis.call('XADD', KEYS[2], '*', 'r', ARGV[1]), '^(%d+)-(%d+)$')
redis.call('HSET', KEYS[4], ARGV[2], '\0' .. struct.pack('>I8I4', tonumber(ms), tonumber(seq)))
redis.call('ZADD', KEYS[3], now, ARGV[2])
redis.call('HINCRBY', KEYS[5], 'w', 1)
if not state[1] then
  redis.call('ZADD', KEYS[1], 'LT', math.max(now, tonumber(state[2] or 0)), ARGV[3])
end
return now
