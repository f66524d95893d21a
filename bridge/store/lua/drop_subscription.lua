#!lua flags=allow-oom
-- Take a subscription out of the registry.
--
-- KEYS  1 subscriptions  2 how many each account has
-- ARGV  1 id  2 the account that it counts for, "" for none  3 the value that it must have, "" for whichever
--
-- Returns 1, or 0 if it is not there, or has another value, and nothing was written.
--
-- A crash before: nothing happened. After: it is gone and not counted; what waits for it is removed by the slice that
-- comes upon it.
local value = redis.call('HGET', KEYS[1], ARGV[1])
if not value or (ARGV[3] ~= '' and value ~= ARGV[3]) then
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[1])
if ARGV[2] ~= '' and redis.call('HINCRBY', KEYS[2], ARGV[2], -1) <= 0 then
  redis.call('HDEL', KEYS[2], ARGV[2])
end
return 1
