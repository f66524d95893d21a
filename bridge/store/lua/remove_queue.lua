#!lua flags=allow-oom
-- Remove all that a shard keeps for a subscription that the registry no longer has.
--
-- KEYS  1 index  2 registry  3… whatever is kept for it: queue, counts, dead letters, state, hold, lanes
-- ARGV  1 queue's index member  2 the registry version at which it was not there
--
-- Returns 1, or 0 if the registry has another version and nothing was written: there may be one of its id again, to
-- which an event was committed meanwhile.
--
-- At once: a lane that is committed in between would be left without its queue, and never be due.
--
-- A crash before: the slice that comes upon the queue removes it.
if (redis.call('GET', KEYS[2]) or '0') ~= ARGV[2] then
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('UNLINK', unpack(KEYS, 3))
return 1
