#!lua flags=allow-oom
-- Drop the oldest records of a log, first copying those that a queue still refers to.
--
-- KEYS  1 log  2 where it begins  3… lane buckets and kept hashes, by their place here
-- ARGV  1 lowest id to keep  2 number of candidates, then for each:
--         bucket key's place, kept key's place, lane, position (12 bytes), record
--
-- Returns how many records were copied. That the log begins at the lowest id is noted with it: of what is older nobody
-- can tell whether it was there. A crash before: the next run does it.
local function is_before(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  if a_ms ~= b_ms then
    return tonumber(a_ms) < tonumber(b_ms)
  end
  return tonumber(a_seq) < tonumber(b_seq)
end

local begin = redis.call('GET', KEYS[2])
local plan, at = {}, 3
for i = 1, tonumber(ARGV[2]) do
  local waiting = redis.call('HGET', KEYS[tonumber(ARGV[at])], ARGV[at + 2])
  if waiting then
    for offset = 2, #waiting, 12 do
      if string.sub(waiting, offset, offset + 11) == ARGV[at + 3] then
        plan[#plan + 1] = {KEYS[tonumber(ARGV[at + 1])], ARGV[at + 3], ARGV[at + 4]}
        break
      end
    end
  end
  at = at + 5
end
for _, keep in ipairs(plan) do
  redis.call('HSET', keep[1], keep[2], keep[3])
end
redis.call('XTRIM', KEYS[1], 'MINID', ARGV[1])
-- Another run may have been further already.
if not begin or is_before(begin, ARGV[1]) then
  redis.call('SET', KEYS[2], ARGV[1])
end
return #plan
