#!lua flags=allow-oom
-- Go on holding messages that were taken, and learn which ones nobody holds any more.
--
-- KEYS  1 leases (zset)
-- ARGV  1 lease in ms  2 most tags to return  3… tags that the caller holds
--
-- Returns the tags of others whose lease is over, the longest first. A tag that is held no more is not written again.
--
-- A crash before: the leases end as they would have. After: they end later.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local held = {}
for i = 3, #ARGV do
  held[ARGV[i]] = true
end
local over = {}
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, tonumber(ARGV[2]) + #ARGV)) do
  if not held[tag] and #over < tonumber(ARGV[2]) then
    table.insert(over, tag)
  end
end
for i = 3, #ARGV do
  redis.call('ZADD', KEYS[1], 'XX', now + tonumber(ARGV[1]), ARGV[i])
end
return over
