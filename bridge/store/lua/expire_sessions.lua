#!lua flags=allow-oom
-- Remove settled sessions whose time of keeping is over.
--
-- KEYS  1 expiry  2… session keys
-- ARGV  1… account:SessionNo of each session key, in the same order
--
-- Returns how many were removed. One that was tracked anew since the caller looked is no member any more, or has a
-- later time, and stays. A crash before: the next run removes them.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local gone = {}
for i, member in ipairs(ARGV) do
  local score = redis.call('ZSCORE', KEYS[1], member)
  if score and tonumber(score) <= now then
    gone[#gone + 1] = i
  end
end
for _, i in ipairs(gone) do
  redis.call('ZREM', KEYS[1], ARGV[i])
  redis.call('DEL', KEYS[i + 1])
end
return #gone
