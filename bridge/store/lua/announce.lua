#!lua
-- Record one event that no session's change is, and put it into queues.
--
-- KEYS  1 index  2 log  3 registry  4 counts of the subscription that it is about
--       5… of each queue: the queue, the lane's bucket, counts, dead letters, state
-- ARGV  1 record  2 lane (8 bytes)
--       3 expected registry version, "" to record it whatever it is
--       4 most events that may wait of a subscription, where its counts name no other number (m)
--       5 most dead letters of one
--       6 field of the counts that says what was told before, "" to note nothing  7 its expected value, "" if there
--         must be none  8 its new value
--       9… of each queue its index member
--
-- Returns 1, or 0 if the field has another value, or -1 if the registry has another version: nothing was written then.
--
-- An event that would be one too many to wait becomes a dead letter at once. That is counted apart (qo; and qd where the
-- oldest dead letter goes for it): no event tells of what such events did to a limit, or each would bring on another.
--
-- A crash before or after leaves nothing or all. A caller that lost the reply and asks again finds the field changed, and
-- makes no second event; where nothing is noted, it does.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local call = redis.call
if ARGV[3] ~= '' and (call('GET', KEYS[3]) or '0') ~= ARGV[3] then
  return -1
end
if ARGV[6] ~= '' and (call('HGET', KEYS[4], ARGV[6]) or '') ~= ARGV[7] then
  return 0
end

local audience = {}
for i = 5, #KEYS, 5 do
  local one = {queue = KEYS[i], bucket = KEYS[i + 1], counts = KEYS[i + 2], dead = KEYS[i + 3],
               member = ARGV[9 + (i - 5) / 5]}
  one.lane = call('HGET', one.bucket, ARGV[2])
  local counted = call('HMGET', one.counts, 'w', 'm')
  one.full = tonumber(counted[1] or 0) >= tonumber(counted[2] or ARGV[4])
  local state = call('HMGET', KEYS[i + 4], 'parked', 'gate')
  one.gate = not state[1] and math.max(now, tonumber(state[2] or 0))
  audience[#audience + 1] = one
end

local ms, seq = string.match(call('XADD', KEYS[2], '*', 'r', ARGV[1]), '^(%d+)-(%d+)$')
local position = struct.pack('>I8I4', tonumber(ms), tonumber(seq))
for _, to in ipairs(audience) do
  if to.full then
    call('XADD', to.dead, '*', 'r', ARGV[1], 'e', 'too many events were waiting', 'a', 0, 'p', position)
    call('HINCRBY', to.counts, 'qo', 1)
    local dropped = call('XTRIM', to.dead, 'MAXLEN', ARGV[5])
    if dropped > 0 then
      call('HINCRBY', to.counts, 'qd', dropped)
    end
  else
    call('HSET', to.bucket, ARGV[2], (to.lane or '\0') .. position)
    call('HINCRBY', to.counts, 'w', 1)
    if not to.lane then
      call('ZADD', to.queue, now, ARGV[2])
      if to.gate then
        call('ZADD', KEYS[1], 'LT', to.gate, to.member)
      end
    end
  end
end
if ARGV[6] ~= '' then
  call('HSET', KEYS[4], ARGV[6], ARGV[8])
end
return 1
