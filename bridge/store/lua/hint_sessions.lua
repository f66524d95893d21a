#!lua flags=allow-oom
-- Make sessions due now, settled ones too, because the provider says that there is news of them. A session of which
-- it said so a moment ago becomes due when that moment is over: many hints make one poll, and none is lost.
--
-- KEYS  1 index  2 due  3 hinted  4… session keys
-- ARGV  1 account's index member  2 ms between two hints that count  3 ms that hinted lives, then the SessionNo of
--       each session key, in the same order
--
-- Returns {how many are known, how many are due sooner than before}.
--
-- A crash before: nothing happened, and the schedule stands. After: they are due.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local gap = tonumber(ARGV[2])
local known = 0
local sooner = {}
for i = 4, #KEYS do
  local no = ARGV[i]
  local due = redis.call('ZSCORE', KEYS[2], no)
  if due or redis.call('EXISTS', KEYS[i]) == 1 then
    known = known + 1
    local at = now
    local last = redis.call('ZSCORE', KEYS[3], no)
    if last then
      at = math.max(now, tonumber(last) + gap)
    end
    if not due or at < tonumber(due) then
      sooner[#sooner + 1] = { at, no }
    end
  end
end
if #sooner > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - gap)
  for _, one in ipairs(sooner) do
    redis.call('ZADD', KEYS[2], one[1], one[2])
    redis.call('ZADD', KEYS[3], one[1], one[2])
  end
  redis.call('PEXPIRE', KEYS[3], ARGV[3])
  local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
  redis.call('ZADD', KEYS[1], first[2], ARGV[1])
end
return { known, #sooner }
