#!lua flags=allow-oom
-- Remove sessions with all that makes them be polled or expire. What was recorded of them stays.
--
-- KEYS  1 index  2 due  3 expiry  4 hinted  5 damaged  6… session keys
-- ARGV  1 account's index member  2 account and a colon, then the SessionNo of each session key, in the same order
--
-- Returns, for each session, 1 if it was there and 0 if not.
--
-- A crash before: nothing happened. A poll or a tracking that is under way finds another version than it read.
local there = {}
for i = 6, #KEYS do
  there[i - 5] = redis.call('EXISTS', KEYS[i])
end
for i = 6, #KEYS do
  local no = ARGV[i - 3]
  redis.call('ZREM', KEYS[2], no)
  redis.call('ZREM', KEYS[3], ARGV[2] .. no)
  redis.call('ZREM', KEYS[4], no)
  redis.call('SREM', KEYS[5], no)
  redis.call('DEL', KEYS[i])
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if first[2] then
  redis.call('ZADD', KEYS[1], first[2], ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return there
