#!lua
-- Add a subscription to the registry, or replace the one of its id.
--
-- KEYS  1 subscriptions  2 how many each account has
-- ARGV  1 id  2 value  3 account  4 the most that an account may have, "" for no limit
--
-- Returns 1; 0 if the account has as many already, and nothing was written. However many add at once, the limit holds.
--
-- A crash before: nothing happened. After: it is there and counted; pollers see it when they read the registry anew.
local is_new = redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0
if is_new and ARGV[4] ~= '' and tonumber(redis.call('HGET', KEYS[2], ARGV[3]) or 0) >= tonumber(ARGV[4]) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if is_new then
  redis.call('HINCRBY', KEYS[2], ARGV[3], 1)
end
return 1
