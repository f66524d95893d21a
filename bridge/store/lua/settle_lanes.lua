#!lua flags=allow-oom
-- Write down what became of the first events of lanes, and let the next ones go.
--
-- KEYS  1 index  2 hold  3 queue  4 dead letters  5 kept records  6 counts  7 outcomes of this hour  8 state
--       9… the bucket of each delivery's lane, in order
-- ARGV  1 queue's index member  2 token  3 most dead letters  4 how long outcomes are kept, in ms
--       5 of each accepted delivery the HTTP status less 200, a byte each
--       6 of each accepted delivery, in the same order, its lane (8 bytes) and position (12 bytes)
--       then for each of the others:
--           lane, position, verb, a, b, c
--             retrying           attempts made, due (Unix ms), -
--             dead               attempts made, record, error
--             unsaid             as dead, of an operators' event: counted apart, for no other event is to tell of it
--             back               -, due (Unix ms), -            not tried: its attempts stay as they were
--
-- Of too many dead letters the oldest go, and are counted (d in the counts, or qd; w is how many events wait, x how
-- many became dead letters).
--
-- Returns how many applied, or -1 if another token holds the queue. A delivery whose lane begins with another position
-- was settled before, by this call's first try or by another holder, and does not apply.
--
-- A crash before: the lanes are due again when their lease ends, and the receiver may hear an event twice, under the
-- same id. After, or a lost reply: nothing is left to do.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
if redis.call('GET', KEYS[2]) ~= ARGV[2] then
  return -1
end

-- Read all before the first write. Plain tables: one for each delivery would take longer than the rest.
local call, sub = redis.call, string.sub
local places, waiting, planned, accepted = {}, {}, {}, #ARGV[5]
local lanes, wanted, at, packed = {}, {}, 7, ARGV[6]
for i = 9, #KEYS do
  local from = 20 * (i - 9)
  local lane, position
  if i < 9 + accepted then
    lane, position = sub(packed, from + 1, from + 8), sub(packed, from + 9, from + 20)
  else
    lane, position, at = ARGV[at], ARGV[at + 1], at + 6
  end
  lanes[i], wanted[i] = lane, position
  local value = call('HGET', KEYS[i], lane)
  -- A lane whose lease ended on the way may have been sent twice: its first outcome here counts, as of two calls.
  if value and sub(value, 2, 13) == position and not planned[lane] then
    places[#places + 1], waiting[i], planned[lane] = i, value, true
  end
end

local keeps = call('EXISTS', KEYS[5]) == 1
local state = call('HMGET', KEYS[8], 'parked', 'gate')
local done, told, gone, died, exhausted = {}, {}, 0, false, 0
for _, i in ipairs(places) do
  local other = i - 9 - accepted
  at = 7 + 6 * other
  local lane, position, verb = lanes[i], wanted[i], other < 0 and 'accepted' or ARGV[at + 2]
  if verb == 'back' then
    call('ZADD', KEYS[3], ARGV[at + 4], lane)
  elseif verb == 'retrying' then
    call('HSET', KEYS[i], lane, string.char(tonumber(ARGV[at + 3])) .. sub(waiting[i], 2))
    call('ZADD', KEYS[3], ARGV[at + 4], lane)
  else
    gone = gone + 1
    if other < 0 then
      told[#told + 1] = sub(position, 5) .. sub(waiting[i], 1, 1) .. sub(ARGV[5], i - 8, i - 8)
    else
      died, exhausted = true, exhausted + (verb == 'dead' and 1 or 0)
      call('XADD', KEYS[4], '*', 'r', ARGV[at + 4], 'e', ARGV[at + 5], 'a', ARGV[at + 3], 'p', position)
    end
    if keeps then
      call('HDEL', KEYS[5], position)
    end
    if #waiting[i] == 13 then
      call('HDEL', KEYS[i], lane)
      done[#done + 1] = lane
    else
      call('HSET', KEYS[i], lane, '\0' .. sub(waiting[i], 14))
      call('ZADD', KEYS[3], now, lane)
    end
  end
end
-- In slices: Lua unpacks a few thousand values at most.
for i = 1, #done, 1000 do
  redis.call('ZREM', KEYS[3], unpack(done, i, math.min(i + 999, #done)))
end

if gone > 0 then
  call('HINCRBY', KEYS[6], 'w', -gone)
end
if #told > 0 then
  -- Of the milliseconds the lowest 32 bits: the hour in the key tells the rest.
  call('APPEND', KEYS[7], struct.pack('>I4I2', now % 4294967296, #told) .. table.concat(told))
  call('PEXPIRE', KEYS[7], ARGV[4])
end
if exhausted > 0 then
  call('HINCRBY', KEYS[6], 'x', exhausted)
end
if died then
  local dropped = call('XTRIM', KEYS[4], 'MAXLEN', ARGV[3])
  if dropped > 0 then
    call('HINCRBY', KEYS[6], exhausted > 0 and 'd' or 'qd', dropped)
  end
end

local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
if first[2] and not state[1] then
  redis.call('ZADD', KEYS[1], math.max(tonumber(first[2]), tonumber(state[2] or 0)), ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return #places
