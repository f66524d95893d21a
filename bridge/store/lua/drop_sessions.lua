#!lua flags=allow-oom
-- Forget the due times of sessions that do not exist.
--
-- KEYS  1 index  2 due  3… session keys
-- ARGV  1 account's index member, then the SessionNo of each session key, in the same order
--
-- Returns how many were forgotten. One that was tracked since the caller looked exists, and stays due.
-- A crash before: they come due again when their lease ends, and are forgotten then.
local gone = {}
for i = 3, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    gone[#gone + 1] = ARGV[i - 1]
  end
end
for _, no in ipairs(gone) do
  redis.call('ZREM', KEYS[2], no)
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if first[2] then
  redis.call('ZADD', KEYS[1], first[2], ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return #gone
