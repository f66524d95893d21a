#!lua flags=allow-oom
-- Let parked lanes start anew, or drop what of them is not to be delivered.
--
-- KEYS  1 queue  2 state  3 kept records  4 counts  5… the bucket of each lane, in order
-- ARGV  1 what is to be delivered: all, latest (of each lane) or none  2… lanes
--
-- Returns how many events were dropped; they are counted in the state too. Nothing happens to a queue that is not
-- parked any more.
--
-- A crash before: whoever asked asks again, and what was dropped is counted once.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
if not redis.call('HGET', KEYS[2], 'parked') then
  return 0
end
local waiting = {}
for i = 5, #KEYS do
  waiting[i] = redis.call('HGET', KEYS[i], ARGV[i - 3])
end
local dropped = 0
for i = 5, #KEYS do
  local value, lane = waiting[i], ARGV[i - 3]
  if value then
    local keep = 2
    if ARGV[1] == 'none' then
      keep = #value + 1
    elseif ARGV[1] == 'latest' then
      keep = #value - 11
    end
    for offset = 2, keep - 1, 12 do
      redis.call('HDEL', KEYS[3], string.sub(value, offset, offset + 11))
      dropped = dropped + 1
    end
    if keep > #value then
      redis.call('HDEL', KEYS[i], lane)
      redis.call('ZREM', KEYS[1], lane)
    else
      redis.call('HSET', KEYS[i], lane, '\0' .. string.sub(value, keep))
      redis.call('ZADD', KEYS[1], now, lane)
    end
  end
end
if dropped > 0 then
  redis.call('HINCRBY', KEYS[2], 'dropped', dropped)
  redis.call('HINCRBY', KEYS[4], 'w', -dropped)
end
return dropped
