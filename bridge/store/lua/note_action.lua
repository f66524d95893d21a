#!lua flags=allow-oom
-- Write an entry into the audit trail, in place of the one that said that its action was begun.
--
-- KEYS  1 the trail
-- ARGV  1 most entries to keep, the newest  2 id of the entry that it takes the place of, "" for none  3 entry
--
-- Returns the entry's id.
--
-- Written when memory is short too: what frees some (removing, erasing) is an action as well.
--
-- A crash before: the entry that the action was begun stays. A caller that lost the reply and asks again writes it
-- twice; both name what they take the place of, and one of them is shown.
if ARGV[2] ~= '' then
  redis.call('XDEL', KEYS[1], ARGV[2])
end
return redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[1], '*', 'e', ARGV[3])
