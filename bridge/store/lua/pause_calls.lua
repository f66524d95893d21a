#!lua flags=allow-oom
-- Make no call of an account for a while.
--
-- KEYS  1 bucket    ARGV  1 how long (ms)  2 why  3 "1" where the account itself is refused, else "0"
--
-- Returns {failures in a row, 1 if the account was not refused before this}. Calls that were under way together fail
-- together: while calls are paused another failure counts only if it is the first to say that the account is refused.
-- A crash before: the next call fails too.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local known = redis.call('HMGET', KEYS[1], 'until', 'failures', 'refused')
local first = 0
if ARGV[3] == '1' and known[3] ~= '1' then
  first = 1
end
local failures = tonumber(known[2] or 0)
if first == 1 or tonumber(known[1] or 0) <= now then
  failures = failures + 1
  redis.call('HSET', KEYS[1], 'failures', failures, 'reason', ARGV[2], 'until', now + tonumber(ARGV[1]))
  redis.call('HSETNX', KEYS[1], 'since', now)
  if first == 1 then
    redis.call('HSET', KEYS[1], 'refused', 1)
  end
end
redis.call('PEXPIRE', KEYS[1], 3600000)
return {failures, first}
