#!lua flags=allow-oom
-- Lease sessions that are due: their due time moves to the lease's end, and comes back by itself after a crash.
--
-- KEYS  1 index  2 due
-- ARGV  1 account's index member  2 the lease's end (Unix ms)
--       3 most of those due for longest  4 most of those due last
--       5 how far ahead to look (ms)  6 most of those that come due within that, the first of them
--
-- A lease ends half a millisecond later than it says: so a session that is leased is told from one that comes due soon,
-- and is not taken along.
--
-- Returns {now in Unix ms, SessionNo, due time, SessionNo, due time…}, each session once, with the due time that it had.
--
-- A crash before: nothing happened. After, or a lost reply: they are due again when the lease ends.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local lease_end = ARGV[2] .. '.5'
local result, leased, seen = {now}, {}, {}
local function lease(found, only_unleased)
  for i = 1, #found, 2 do
    if not seen[found[i]] and not (only_unleased and string.find(found[i + 1], '.', 1, true)) then
      seen[found[i]] = true
      result[#result + 1] = found[i]
      result[#result + 1] = found[i + 1]
      leased[#leased + 1] = lease_end
      leased[#leased + 1] = found[i]
    end
  end
end
lease(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'WITHSCORES', 'LIMIT', 0, ARGV[3]))
if ARGV[4] ~= '0' then
  lease(redis.call('ZREVRANGEBYSCORE', KEYS[2], now, '-inf', 'WITHSCORES', 'LIMIT', 0, ARGV[4]))
end
if ARGV[6] ~= '0' then
  lease(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. now, now + tonumber(ARGV[5]), 'WITHSCORES', 'LIMIT', 0, ARGV[6]), true)
end
if leased[1] then
  redis.call('ZADD', KEYS[2], unpack(leased))
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if first[2] then
  redis.call('ZADD', KEYS[1], first[2], ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return result
