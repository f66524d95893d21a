#!lua flags=allow-oom
-- Write down what became of the first events of lanes, and let the next ones go.
--
-- KEYS  1 index  2 hold  3 queue  4 dead letters  5 kept records  6… the bucket of each delivery's lane, in order
-- ARGV  1 queue's index member  2 token  3 number of accepted deliveries, then of each
--           lane (8 bytes) with position (12 bytes)
--       then for each of the others:
--           lane with position, verb, a, b, c
--             retrying           attempts made, due (Unix ms), -
--             dead               attempts made, record, error
--             back               -, due (Unix ms), -            not tried: its attempts stay as they were
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

-- Read all before the first write.
local plan, planned, accepted, at = {}, {}, tonumber(ARGV[3]), 4
for i = 6, #KEYS do
  local place = ARGV[at]
  local lane = string.sub(place, 1, 8)
  local waiting = redis.call('HGET', KEYS[i], lane)
  -- A lane whose lease ended under way may have been sent twice: its first outcome counts, as of two calls.
  if waiting and string.sub(waiting, 2, 13) == string.sub(place, 9) and not planned[lane] then
    planned[lane] = true
    local d = {bucket = KEYS[i], lane = lane, waiting = waiting, verb = 'accepted'}
    if i > 5 + accepted then
      d.verb, d.a, d.b, d.c = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
    end
    plan[#plan + 1] = d
  end
  at = at + (i > 5 + accepted and 5 or 1)
end

local keeps = redis.call('EXISTS', KEYS[5]) == 1
local done = {}
for _, d in ipairs(plan) do
  if d.verb == 'back' then
    redis.call('ZADD', KEYS[3], d.b, d.lane)
  elseif d.verb == 'retrying' then
    redis.call('HSET', d.bucket, d.lane, string.char(tonumber(d.a)) .. string.sub(d.waiting, 2))
    redis.call('ZADD', KEYS[3], d.b, d.lane)
  else
    local position = string.sub(d.waiting, 2, 13)
    if d.verb == 'dead' then
      redis.call('XADD', KEYS[4], '*', 'r', d.b, 'e', d.c, 'a', d.a, 'p', position)
    end
    if keeps then
      redis.call('HDEL', KEYS[5], position)
    end
    local rest = string.sub(d.waiting, 14)
    if rest == '' then
      redis.call('HDEL', d.bucket, d.lane)
      done[#done + 1] = d.lane
    else
      redis.call('HSET', d.bucket, d.lane, '\0' .. rest)
      redis.call('ZADD', KEYS[3], now, d.lane)
    end
  end
end
-- In slices: Lua unpacks a few thousand values at most.
for i = 1, #done, 1000 do
  redis.call('ZREM', KEYS[3], unpack(done, i, math.min(i + 999, #done)))
end

local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
if first[2] then
  redis.call('ZADD', KEYS[1], first[2], ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return #plan
