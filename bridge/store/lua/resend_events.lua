#!lua flags=allow-oom
-- Put events into a queue again, each in a lane of its own, with their records beside the queue.
--
-- KEYS  1 index  2 queue  3 dead letters  4 kept records  5 counts  6 state
--       7… of each event: the bucket of its phone's lane, the bucket of its own lane
-- ARGV  1 queue's index member  2 most events that may wait, where the counts name no other number (m), then of each event
--           its phone's lane, its own lane, position (12 bytes), record,
--           ids of the dead letters that it replaces, with spaces between
--
-- Returns of each event 1 if it was put, 0 if it is waiting already, -1 if too many wait.
--
-- Its own lane comes of its position: put twice, it waits once. The record is kept aside whether the log has it or not:
-- trimming looks for an event in its phone's lane alone.
--
-- A crash before: the dead letters are there. After, or a lost reply: the events wait, and their dead letters are gone.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local call, sub = redis.call, string.sub

local function waits(bucket, lane, position)
  local value = call('HGET', bucket, lane)
  for offset = 2, value and #value or 0, 12 do
    if sub(value, offset, offset + 11) == position then
      return true
    end
  end
  return false
end

local state = call('HMGET', KEYS[6], 'parked', 'gate')
local result, put, seen = {}, {}, {}
local counted = call('HMGET', KEYS[5], 'w', 'm')
local room = tonumber(counted[2] or ARGV[2]) - tonumber(counted[1] or 0)
for i = 1, (#KEYS - 6) / 2 do
  local at, bucket, own = 5 * i - 2, KEYS[2 * i + 5], KEYS[2 * i + 6]
  if seen[ARGV[at + 2]] or waits(bucket, ARGV[at], ARGV[at + 2]) or waits(own, ARGV[at + 1], ARGV[at + 2]) then
    result[i] = 0
  elseif #put >= room then
    result[i] = -1
  else
    result[i], seen[ARGV[at + 2]] = 1, true
    put[#put + 1] = {at, own}
  end
end

for _, one in ipairs(put) do
  local at, bucket = one[1], one[2]
  call('ZADD', KEYS[2], now, ARGV[at + 1])
  call('HSET', bucket, ARGV[at + 1], '\0' .. ARGV[at + 2])
  call('HSET', KEYS[4], ARGV[at + 2], ARGV[at + 3])
  for id in string.gmatch(ARGV[at + 4], '%S+') do
    call('XDEL', KEYS[3], id)
  end
end
if #put > 0 then
  call('HINCRBY', KEYS[5], 'w', #put)
  if not state[1] then
    local first = call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
    call('ZADD', KEYS[1], 'LT', math.max(tonumber(first[2]), tonumber(state[2] or 0)), ARGV[1])
  end
end
return result
