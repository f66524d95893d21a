#!lua flags=no-writes
-- Read lanes: what waits in each.
--
-- KEYS  buckets, one per lane    ARGV  lanes, in the same order
--
-- Returns one string per lane, "" for one that is gone: the attempts already made for its first event (1 byte), then
-- positions (12 bytes each), the first event's first.
local result, call = {}, redis.call
for i, lane in ipairs(ARGV) do
  result[i] = call('HGET', KEYS[i], lane) or ''
end
return result
