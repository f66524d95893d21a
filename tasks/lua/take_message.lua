#!lua flags=allow-oom
-- Take the first message there is out of queues, and write it down as taken in the same step.
--
-- KEYS  1 taken (hash: tag → message)  2 leases (zset: tag by the lease's end)  3… queues, as lists, in this order
-- ARGV  1 a name that no other take has  2 lease in ms  3 most bytes of a message  4 bytes to keep of a larger one
--
-- Returns nil where all queues are empty, else {tag, message}; {tag, its beginning, its size} of one that is too
-- large, of which the rest is let go: nobody could read it, and its beginning is what an operator is shown.
--
-- A crash before: the message is in its queue. After, or a lost reply: it goes back there when the lease ends. With
-- memory short it passes: what it writes is what it removes.
local queues = {}
for i = 3, #KEYS do
  queues[i - 2] = KEYS[i]
end
queues[#queues + 1] = 'RIGHT'
local popped = redis.call('LMPOP', #KEYS - 2, unpack(queues))
if not popped then
  return nil
end
local message = popped[2][1]
local tag = ARGV[1] .. ':' .. popped[1]
local reply = {tag, message}
if #message > tonumber(ARGV[3]) then
  reply = {tag, string.sub(message, 1, tonumber(ARGV[4])), #message}
end
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
redis.call('HSET', KEYS[1], tag, reply[2])
redis.call('ZADD', KEYS[2], now + tonumber(ARGV[2]), tag)
return reply
