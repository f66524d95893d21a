#!lua
-- Write sessions of one shard and account, each with its events, its subscriptions' queues and its next due time.
--
-- KEYS  1 index  2 registry  3 expiry  4 due  5 log  6 watches
--       7… session keys, lane buckets, lists of sessions to look at, and of each subscription queue, counts, dead letters and state: by their
--         place here
-- ARGV  1 account's index member
--       2 expected registry version, "" to write whatever it is
--       3 most events that may wait of a subscription, where its counts name no other number (m)  4 most dead letters of one
--       5 number of subscriptions, then for each:
--           places of the keys of queue, counts, dead letters and state; queue's index member
--       number of sessions, then for each:
--           session key's place, SessionNo, account:SessionNo,
--           expected version (4 bytes, "" if the session must not exist), new value,
--           next due (Unix ms; "" none, "keep" the present one, or now where there is none, "leave" it as it is),
--           "1" if whoever writes has leased the session, "" if not,
--           expiry (Unix ms; "" none, "keep" as it is),
--           place of the list to be looked at in ("" none) and, of one, its member among the watches and its time,
--           number of events, then for each:
--             record, number of routes, then for each:
--               subscription (from 1), bucket key's place, lane (8 bytes)
--
-- Returns {now in Unix ms, -1} if the registry has another version and nothing was written, else
--         {now, 0 or 1 for each session}: 1 means that its version was another and it was not written.
--
-- Of a session that was leased, a due time that is none of a lease was set meanwhile, by somebody with news of it: where
-- it is sooner than the next one, it stays.
--
-- An event that would be one too many to wait becomes a dead letter at once, and is counted (o): what waits already is
-- as it was, and a phone's events are sent in order still. Of too many dead letters the oldest go, counted too (d).
--
-- A crash before or after leaves nothing or all: a script is one write to the log and to replicas. A caller that lost
-- the reply finds its own version there, re-applies the same receipts, and finds no change.
local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local now = now_ms()
if ARGV[2] ~= '' and (redis.call('GET', KEYS[2]) or '0') ~= ARGV[2] then
  return {now, -1}
end

local at = 5
local function take()
  local value = ARGV[at]
  at = at + 1
  return value
end

-- Read all before the first write.
local plan, result, lanes, audience = {}, {now}, {}, {}
local most, most_dead = tonumber(ARGV[3]), tonumber(ARGV[4])
for i = 1, tonumber(take()) do
  local one = {queue = KEYS[tonumber(take())], counts = KEYS[tonumber(take())], dead = KEYS[tonumber(take())],
               state = KEYS[tonumber(take())], member = take(), added = 0, over = 0}
  local counted = redis.call('HMGET', one.counts, 'w', 'm')
  one.waiting, one.most = tonumber(counted[1] or 0), tonumber(counted[2] or most)
  -- What is parked is in no index, and what is gated not before its time: nobody need look for it.
  local state = redis.call('HMGET', one.state, 'parked', 'gate')
  one.gate = not state[1] and math.max(now, tonumber(state[2] or 0))
  audience[i] = one
end
for i = 1, tonumber(take()) do
  local s = {key = KEYS[tonumber(take())], no = take(), member = take(), version = take(), value = take(),
             due = take(), leased = take(), expiry = take(), watch = take(), events = {}}
  if s.watch ~= '' then
    s.watch, s.watch_member, s.watch_at = KEYS[tonumber(s.watch)], take(), take()
  end
  if s.leased ~= '' and s.due ~= 'keep' and s.due ~= 'leave' then
    local held = redis.call('ZSCORE', KEYS[4], s.no)
    -- A lease ends at half a millisecond, as claim_sessions says.
    if held and not string.find(held, '.', 1, true) and (s.due == '' or tonumber(held) < tonumber(s.due)) then
      s.due = 'leave'
    end
  end
  local current = redis.call('GET', s.key)
  s.ok = (current and string.sub(current, 1, 4) or '') == s.version
  for e = 1, tonumber(take()) do
    local event = {record = take(), routes = {}}
    for r = 1, tonumber(take()) do
      local route = {to = audience[tonumber(take())], bucket = KEYS[tonumber(take())], lane = take()}
      local id = route.bucket .. route.lane
      if lanes[id] == nil then
        lanes[id] = redis.call('HGET', route.bucket, route.lane)
      end
      event.routes[r] = route
    end
    s.events[e] = event
  end
  plan[i] = s
  result[i + 1] = s.ok and 0 or 1
end

local watched = {}
for _, s in ipairs(plan) do
  if s.ok then
    redis.call('SET', s.key, s.value)
    if s.due == '' then
      redis.call('ZREM', KEYS[4], s.no)
    elseif s.due == 'keep' then
      redis.call('ZADD', KEYS[4], 'NX', now, s.no)
    elseif s.due ~= 'leave' then
      redis.call('ZADD', KEYS[4], s.due, s.no)
    end
    if s.expiry == '' then
      redis.call('ZREM', KEYS[3], s.member)
    elseif s.expiry ~= 'keep' then
      redis.call('ZADD', KEYS[3], s.expiry, s.member)
    end
    if s.watch ~= '' then
      redis.call('RPUSH', s.watch, s.no)
      if not watched[s.watch] then
        watched[s.watch] = true
        redis.call('ZADD', KEYS[6], s.watch_at, s.watch_member)
      end
    end
    for _, event in ipairs(s.events) do
      local ms, seq = string.match(redis.call('XADD', KEYS[5], '*', 'r', event.record), '^(%d+)-(%d+)$')
      local position = struct.pack('>I8I4', tonumber(ms), tonumber(seq))
      for _, route in ipairs(event.routes) do
        local id, to = route.bucket .. route.lane, route.to
        local waiting = lanes[id]
        if to.waiting + to.added >= to.most then
          redis.call('XADD', to.dead, '*', 'r', event.record, 'e', 'too many events were waiting', 'a', 0, 'p', position)
          to.over = to.over + 1
        else
          to.added = to.added + 1
          if waiting then
            lanes[id] = waiting .. position
          else
            lanes[id] = '\0' .. position
            redis.call('ZADD', to.queue, now, route.lane)
            if to.gate then
              redis.call('ZADD', KEYS[1], 'LT', to.gate, to.member)
            end
          end
          redis.call('HSET', route.bucket, route.lane, lanes[id])
        end
      end
    end
  end
end

for _, to in ipairs(audience) do
  if to.added > 0 then
    redis.call('HINCRBY', to.counts, 'w', to.added)
  end
  if to.over > 0 then
    redis.call('HINCRBY', to.counts, 'o', to.over)
    local dropped = redis.call('XTRIM', to.dead, 'MAXLEN', most_dead)
    if dropped > 0 then
      redis.call('HINCRBY', to.counts, 'd', dropped)
    end
  end
end

local first = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')
if first[2] then
  redis.call('ZADD', KEYS[1], first[2], ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return result
