#!lua flags=allow-oom
-- Drop the oldest dead letters of a queue, and count them (d).
--
-- KEYS  1 dead letters  2 counts
-- ARGV  1 lowest id to keep
--
-- Returns how many were dropped. A crash before: the next run finds too many. After, or a lost reply: they are dropped
-- and counted, and asking again does nothing.
local dropped = redis.call('XTRIM', KEYS[1], 'MINID', ARGV[1])
if dropped > 0 then
  redis.call('HINCRBY', KEYS[2], 'd', dropped)
end
return dropped
