#!lua flags=allow-oom
-- Set a mark that lasts for seconds: a wake-up, or word that a tick ran.
--
-- KEYS  1 mark    ARGV  1 value  2 how long, in ms  3 'new' (only where there is none) or 'any'
--
-- Returns 1 if it was set, 0 if there was one. Passes with memory short, where a plain SET is refused: delivery, which
-- frees memory, would wait for ever to be woken.
--
-- A crash before: nothing happened. After: the mark is there until its time is over.
if ARGV[3] == 'new' and redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
