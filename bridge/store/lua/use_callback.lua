#!lua
-- Note that a session names a URL, unless its account's sessions name too many others.
--
-- KEYS  1 when each of the account's URLs was last named
-- ARGV  1 id of the subscription that the URL implies  2 now (Unix ms)  3 most URLs
--
-- Returns 1; 0 if it would be one too many, and nothing was written. However many name one at once, the limit holds.
--
-- A crash after: a URL is counted for which there is no subscription, until it is named again or was not for long.
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then
  return 0
end
redis.call('ZADD', KEYS[1], 'GT', ARGV[2], ARGV[1])
return 1
