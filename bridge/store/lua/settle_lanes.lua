#!lua flags=allow-oom
-- Write down what became of the first events of lanes, and let the next ones go.
--
-- KEYS  1 index  2 hold  3 queue  4 dead letters  5 kept records  6… lane buckets, by their place here
-- ARGV  1 queue's index member  2 token  3 number of deliveries, then for each:
--         bucket key's place, lane, position (12 bytes), verb, a, b, c
--           accepted             -, -, -
--           retrying             attempts made, due (Unix ms), -
--           dead                 attempts made, record, error
--           back                 -, due (Unix ms), -            not tried: its attempts stay as they were
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
local plan, at = {}, 4
for i = 1, tonumber(ARGV[3]) do
  local d = {bucket = KEYS[tonumber(ARGV[at])], lane = ARGV[at + 1], position = ARGV[at + 2], verb = ARGV[at + 3],
             a = ARGV[at + 4], b = ARGV[at + 5], c = ARGV[at + 6]}
  at = at + 7
  d.waiting = redis.call('HGET', d.bucket, d.lane)
  if d.waiting and string.sub(d.waiting, 2, 13) == d.position then
    plan[#plan + 1] = d
  end
end

local keeps = redis.call('EXISTS', KEYS[5]) == 1
for _, d in ipairs(plan) do
  if d.verb == 'back' then
    redis.call('ZADD', KEYS[3], d.b, d.lane)
  elseif d.verb == 'retrying' then
    redis.call('HSET', d.bucket, d.lane, string.char(tonumber(d.a)) .. string.sub(d.waiting, 2))
    redis.call('ZADD', KEYS[3], d.b, d.lane)
  else
    if d.verb == 'dead' then
      redis.call('XADD', KEYS[4], '*', 'r', d.b, 'e', d.c, 'a', d.a, 'p', d.position)
    end
    if keeps then
      redis.call('HDEL', KEYS[5], d.position)
    end
    local rest = string.sub(d.waiting, 14)
    if rest == '' then
      redis.call('HDEL', d.bucket, d.lane)
      redis.call('ZREM', KEYS[3], d.lane)
    else
      redis.call('HSET', d.bucket, d.lane, '\0' .. rest)
      redis.call('ZADD', KEYS[3], now, d.lane)
    end
  end
end

local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
if first[2] then
  redis.call('ZADD', KEYS[1], first[2], ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return #plan
