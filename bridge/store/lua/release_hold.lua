#!lua flags=allow-oom
-- Let go of a queue, if this token holds it.
--
-- KEYS  1 hold    ARGV  1 token
--
-- Returns 1 if it was held. A crash before: the hold ends by itself.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
