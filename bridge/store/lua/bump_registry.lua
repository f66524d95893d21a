#!lua flags=allow-oom
-- Give a shard's registry another version, so that commits which decided by the one before are refused.
--
-- KEYS  1 registry    ARGV  1 version, one that never was
--
-- Returns 1. Passes with memory short, where a plain SET is refused: whoever disables or removes a subscription then
-- would have done half of it, and the slice that was told 410 would end, with all that it holds.
--
-- A crash before: pollers see the change when they read the registry anew, within 10 s.
redis.call('SET', KEYS[1], ARGV[1])
return 1
