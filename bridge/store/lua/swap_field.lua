#!lua flags=allow-oom
-- Replace a field of a hash, if nobody else has meanwhile.
--
-- KEYS  1 hash
-- ARGV  1 field  2 expected value, '' for none  3 new value
--
-- Returns 1 if it was replaced, 0 if the field has another value.
--
-- A crash before or after leaves the old value or the new one, whole.
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
