#!lua flags=allow-oom
-- Drop the oldest records of a log, first copying those that a queue still refers to.
--
-- KEYS  1 log  2… lane buckets and kept hashes, by their place here
-- ARGV  1 lowest id to keep  2 number of candidates, then for each:
--         bucket key's place, kept key's place, lane, position (12 bytes), record
--
-- Returns how many records were copied. A crash before: the next run does it.
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
return #plan
