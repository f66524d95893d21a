#!lua flags=allow-oom
-- Give claimed sessions another due time: handed back because a call had no room, or failed.
--
-- KEYS  1 index  2 due
-- ARGV  1 account's index member  2 the lease's end (Unix ms), as claimed, then pairs: SessionNo, due (Unix ms)
--
-- Returns 1. A session whose due time is another meanwhile (it settled, or was made due) keeps that.
-- A crash before: they are due again when their lease ends.
local lease_end = tonumber(ARGV[2]) + 0.5 -- as claim_sessions says
local due = {}
for i = 3, #ARGV, 2 do
  local held = redis.call('ZSCORE', KEYS[2], ARGV[i])
  if held and tonumber(held) == lease_end then
    due[#due + 1] = ARGV[i + 1]
    due[#due + 1] = ARGV[i]
  end
end
if due[1] then
  redis.call('ZADD', KEYS[2], unpack(due))
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if first[2] then
  redis.call('ZADD', KEYS[1], first[2], ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return 1
