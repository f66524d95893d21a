#!lua flags=allow-oom
-- Note how a subscription's receiver is, and serve none of its lanes of a shard before a time.
--
-- KEYS  1 index  2 hold  3 queue  4 state
-- ARGV  1 queue's index member  2 token  3 gate (Unix ms, 0 for none)  4 health: "" none, "keep" as it is
--       5 "held" if the token must hold the queue, "" if no other may  6 "due" to have the queue looked at now
--
-- Returns 1, or 0 if another token holds the queue and nothing was written.
--
-- A crash before: nothing happened. After some shards of a subscription: the next holder reads the home shard's health,
-- and gates the others.
local holder = redis.call('GET', KEYS[2])
if holder ~= ARGV[2] and (holder or ARGV[5] == 'held') then
  return 0
end
local parked = redis.call('HGET', KEYS[4], 'parked')
local gate = tonumber(ARGV[3])
if gate > 0 then
  redis.call('HSET', KEYS[4], 'gate', ARGV[3])
else
  redis.call('HDEL', KEYS[4], 'gate')
end
if ARGV[4] == '' then
  redis.call('HDEL', KEYS[4], 'health')
elseif ARGV[4] ~= 'keep' then
  redis.call('HSET', KEYS[4], 'health', ARGV[4])
end
local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
if first[2] and not parked then
  redis.call('ZADD', KEYS[1], ARGV[6] == 'due' and 1 or math.max(tonumber(first[2]), gate), ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return 1
