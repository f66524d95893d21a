#!lua flags=allow-oom
-- Count a URL no more, if no session named it lately.
--
-- KEYS  1 when each of the account's URLs was last named
-- ARGV  1 id of the subscription that the URL implies  2 lately: from then on (Unix ms)
--
-- Returns 1, or 0 if it was named, or is not there, and nothing was written.
--
-- A crash before: the next removal of what is unused does it.
local named = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not named or tonumber(named) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
