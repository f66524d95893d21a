#!lua flags=allow-oom
-- Hold a subscription's queue in one shard, or go on holding it, and lease lanes that are due.
--
-- KEYS  1 index  2 hold  3 queue  4 state
-- ARGV  1 queue's index member  2 token (16 bytes)  3 hold's length in ms  4 lease's length in ms  5 most lanes
--
-- Returns {now in Unix ms, 1, lane…}, the longest due first; {now, 0} if another token holds the queue. Of a queue that
-- is parked, or gated until later, no lane; and whatever put it into the index all the same is put right.
--
-- A crash before: nothing happened. After, or a lost reply: the lanes are due again when their lease ends, and the
-- queue is free when the hold ends.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[2] then
  return {now, 0}
end
local result = {}
local state = redis.call('HMGET', KEYS[4], 'parked', 'gate')
if tonumber(ARGV[5]) > 0 and not state[1] and tonumber(state[2] or 0) <= now then
  result = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, ARGV[5])
end
local first
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
if state[1] then
  redis.call('ZREM', KEYS[1], ARGV[1])
elseif tonumber(state[2] or 0) > now then
  redis.call('ZADD', KEYS[1], 'XX', 'GT', state[2], ARGV[1])
end
if #result > 0 then
  local lease_end = now + tonumber(ARGV[4])
  local leases = {}
  for i, lane in ipairs(result) do
    leases[2 * i - 1], leases[2 * i] = lease_end, lane
  end
  -- In slices: Lua unpacks a few thousand values at most.
  for i = 1, #leases, 1000 do
    redis.call('ZADD', KEYS[3], unpack(leases, i, math.min(i + 999, #leases)))
  end
  first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
  redis.call('ZADD', KEYS[1], first[2], ARGV[1])
elseif tonumber(ARGV[5]) > 0 and not state[1] and tonumber(state[2] or 0) <= now then
  -- Looked for in vain: without this, slice after slice would.
  first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
  if first[2] then
    redis.call('ZADD', KEYS[1], first[2], ARGV[1])
  else
    redis.call('ZREM', KEYS[1], ARGV[1])
  end
end
table.insert(result, 1, 1)
table.insert(result, 1, now)
return result
