#!lua
-- Put events that were recorded before a subscription was there into its queue, each in its place in its lane.
--
-- KEYS  1 registry  2 queue  3 counts  4 state  5… the bucket of each event's lane, in order
-- ARGV  1 the registry version in which the subscription is still being filled
--       2 most events that may wait, where the counts name no other number (m)
--       3 position up to which its log was looked through with this  4… of each event: lane, position (12 bytes)
--
-- Returns how many were put, -1 if the registry has another version, -2 if too many would wait: nothing was written then.
--
-- What waits already stays where it is: an event that was committed since, or put by a call whose reply was lost, is not
-- put twice. The queue is parked, and comes into the index when it is served.
--
-- A crash before: whoever fills it goes on from the position that was noted last.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local call, sub = redis.call, string.sub
if (call('GET', KEYS[1]) or '0') ~= ARGV[1] then
  return -1
end

-- As numbers: strings compare by the server's locale.
local function is_before(a, b)
  local a1, a2, a3 = struct.unpack('>I4I4I4', a)
  local b1, b2, b3 = struct.unpack('>I4I4I4', b)
  if a1 ~= b1 then
    return a1 < b1
  elseif a2 ~= b2 then
    return a2 < b2
  end
  return a3 < b3
end

-- Where a position belongs in a lane: the offset of the first that is not before it.
local function place_of(value, position)
  local offset = #value + 1
  while offset > 2 and not is_before(sub(value, offset - 12, offset - 1), position) do
    offset = offset - 12
  end
  return offset
end

local lanes, order, put = {}, {}, 0
for i = 5, #KEYS do
  local at = 2 * i - 6
  local lane, position = ARGV[at], ARGV[at + 1]
  local one = lanes[lane]
  if one == nil then
    local value = call('HGET', KEYS[i], lane)
    one = {bucket = KEYS[i], lane = lane, value = value or '\0', is_new = not value}
    lanes[lane] = one
    order[#order + 1] = one
  end
  local offset = place_of(one.value, position)
  if sub(one.value, offset, offset + 11) ~= position then
    one.value = sub(one.value, 1, offset - 1) .. position .. sub(one.value, offset)
    one.changed = true
    put = put + 1
  end
end
local counted = call('HMGET', KEYS[3], 'w', 'm')
if put > 0 and tonumber(counted[1] or 0) + put > tonumber(counted[2] or ARGV[2]) then
  return -2
end

for _, one in ipairs(order) do
  if one.changed then
    call('HSET', one.bucket, one.lane, one.value)
    if one.is_new then
      call('ZADD', KEYS[2], now, one.lane)
    end
  end
end
if put > 0 then
  call('HINCRBY', KEYS[3], 'w', put)
end
call('HSET', KEYS[4], 'filled', ARGV[3])
return put
