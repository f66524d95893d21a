#!lua flags=allow-oom
-- Forget the first sessions of a list of those to look at, once they were looked at.
--
-- KEYS  1 watches  2 list
-- ARGV  1 the list's member among the watches  2 the first session that was looked at ("" of an empty list)
--       3 how many were
--
-- Returns how many are left. Where somebody else forgot them first nothing is: the list begins with another.
-- A crash before: they are looked at again, and what was told of them is not told twice.
local left = redis.call('LLEN', KEYS[2])
if redis.call('LINDEX', KEYS[2], 0) == ARGV[2] then
  left = math.max(0, left - tonumber(ARGV[3]))
  redis.call('LTRIM', KEYS[2], ARGV[3], -1)
end
if left == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return left
