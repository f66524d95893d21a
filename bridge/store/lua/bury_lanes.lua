#!lua flags=allow-oom
-- Take events out of a queue wherever they stand in their lanes, and make dead letters of them.
--
-- KEYS  1 index  2 queue  3 dead letters  4 kept records  5 counts  6 state
--       7… the bucket of each event's lane, in order
-- ARGV  1 queue's index member  2 the dead letters' error; "" to leave none, where events are erased; "?" only to count
--       3 most dead letters  4 "q" if they are operators' events, which are counted apart, else ""
--       then of each event
--           lane, position (12 bytes), record
--
-- Returns how many were there. Each that became a dead letter is counted (k in the counts), and so is the oldest of too
-- many dead letters that goes for it (d); operators' events as qk and qd.
--
-- A first event may be under way. Its outcome will not apply; what waits behind it goes when that lease has ended, so
-- that a phone's events are sent in order still.
--
-- A crash before: nothing happened. After, or a lost reply: they are gone from their lanes, and do not count again.
local LONGEST_LEASE = 45000
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local call, sub = redis.call, string.sub

local lanes, order, found = {}, {}, {}
for i = 7, #KEYS do
  local at = 5 + 3 * (i - 7)
  local lane, position = ARGV[at], ARGV[at + 1]
  local one = lanes[lane]
  if one == nil then
    one = {bucket = KEYS[i], lane = lane, value = call('HGET', KEYS[i], lane)}
    lanes[lane] = one
    order[#order + 1] = one
  end
  for offset = 2, one.value and #one.value or 0, 12 do
    if sub(one.value, offset, offset + 11) == position then
      local attempts = offset == 2 and '\0' or sub(one.value, 1, 1)
      one.value = attempts .. sub(one.value, 2, offset - 1) .. sub(one.value, offset + 12)
      one.changed, one.headless = true, one.headless or offset == 2
      found[#found + 1] = at
      break
    end
  end
end

if ARGV[2] == '?' then
  return #found
end
local state = call('HMGET', KEYS[6], 'parked', 'gate')
for i = 7, #KEYS do
  call('HDEL', KEYS[4], ARGV[6 + 3 * (i - 7)])
end
for _, one in ipairs(order) do
  if one.changed then
    if #one.value == 1 then
      call('HDEL', one.bucket, one.lane)
      call('ZREM', KEYS[2], one.lane)
    else
      call('HSET', one.bucket, one.lane, one.value)
      if one.headless then
        call('ZADD', KEYS[2], 'LT', now + LONGEST_LEASE, one.lane)
      end
    end
  end
end
if #found > 0 then
  call('HINCRBY', KEYS[5], 'w', -#found)
  if ARGV[2] ~= '' then
    for _, at in ipairs(found) do
      call('XADD', KEYS[3], '*', 'r', ARGV[at + 2], 'e', ARGV[2], 'a', 0, 'p', ARGV[at + 1])
    end
    call('HINCRBY', KEYS[5], ARGV[4] .. 'k', #found)
    local dropped = call('XTRIM', KEYS[3], 'MAXLEN', ARGV[3])
    if dropped > 0 then
      call('HINCRBY', KEYS[5], ARGV[4] .. 'd', dropped)
    end
  end
  local first = call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
  if first[2] and not state[1] then
    -- Earlier alone: one that is to be looked at now may have another reason for that.
    call('ZADD', KEYS[1], 'LT', math.max(tonumber(first[2]), tonumber(state[2] or 0)), ARGV[1])
  else
    call('ZREM', KEYS[1], ARGV[1])
  end
end
return #found
