#!lua flags=allow-oom
-- Drop the oldest dead letters of a queue, and count them (d; and apart, as qd, those of operators' events).
--
-- KEYS  1 dead letters  2 counts
-- ARGV  1 lowest id to keep  2 how many of those below it are operators' events
--
-- Returns how many were dropped. A crash before: the next run finds too many. After, or a lost reply: they are dropped
-- and counted, and asking again does nothing.
local dropped = redis.call('XTRIM', KEYS[1], 'MINID', ARGV[1])
local ours = math.min(dropped, tonumber(ARGV[2]))
if ours > 0 then
  redis.call('HINCRBY', KEYS[2], 'qd', ours)
end
if dropped > ours then
  redis.call('HINCRBY', KEYS[2], 'd', dropped - ours)
end
return dropped
