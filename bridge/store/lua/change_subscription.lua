#!lua flags=allow-oom
-- Replace a subscription, unless somebody else changed it meanwhile.
--
-- KEYS  1 subscriptions
-- ARGV  1 id  2 the value that was read  3 the new value
--
-- Returns 1, or 0 if it has another value or was removed. A crash after, before the shards' versions are changed: who
-- wants events is the same in both values, so no commit goes wrong by it.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
