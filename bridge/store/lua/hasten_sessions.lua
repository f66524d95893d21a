#!lua flags=allow-oom
-- Make sessions due now, settled ones too.
--
-- KEYS  1 index  2 due  3… session keys
-- ARGV  1 account's index member, then the SessionNo of each session key, in the same order
--
-- Returns for each session 1, or 0 where there is none of it.
-- A crash before or after leaves nothing or all; asking again does no harm.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local found, due = {}, {}
for i = 3, #KEYS do
  found[i - 2] = redis.call('EXISTS', KEYS[i])
  if found[i - 2] == 1 then
    due[#due + 1] = now
    due[#due + 1] = ARGV[i - 1]
  end
end
if due[1] then
  redis.call('ZADD', KEYS[2], unpack(due))
  local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
  redis.call('ZADD', KEYS[1], first[2], ARGV[1])
end
return found
