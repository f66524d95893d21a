#!lua flags=allow-oom
-- Take a token from an account's bucket of calls.
--
-- KEYS  1 bucket    ARGV  1 tokens a second  2 most tokens saved
--
-- Returns 0 if one was taken, else how many ms until there is one. A crash after: one call fewer was made.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local saved = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = tonumber(saved[1] or burst)
tokens = math.min(burst, tokens + math.max(0, now - tonumber(saved[2] or now)) * rate / 1000)
local wait = 0
if tokens >= 1 then
  tokens = tokens - 1
else
  wait = math.ceil((1 - tokens) * 1000 / rate)
end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', now)
redis.call('PEXPIRE', KEYS[1], 3600000)
return wait
