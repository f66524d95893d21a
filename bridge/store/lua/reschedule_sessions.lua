#!lua flags=allow-oom
-- Give claimed sessions another due time: handed back because a call had no room, or failed.
--
-- KEYS  1 index  2 due
-- ARGV  1 account's index member, then pairs: SessionNo, due (Unix ms)
--
-- Returns 1. A session that has no due time any more (it settled meanwhile) gets none.
-- A crash before: they are due again when their lease ends.
for i = 2, #ARGV, 2 do
  redis.call('ZADD', KEYS[2], 'XX', ARGV[i + 1], ARGV[i])
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if first[2] then
  redis.call('ZADD', KEYS[1], first[2], ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return 1
