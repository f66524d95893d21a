#!lua flags=allow-oom
-- Take events out of a log, and remember that their places were erased: what is missing elsewhere was lost.
--
-- KEYS  1 log  2 erased positions
-- ARGV  of each event: its id in the log, its position (12 bytes)
--
-- Returns how many were there. A crash before: nothing happened. After, or a lost reply: nothing is left to do.
local gone = 0
for i = 1, #ARGV, 2 do
  gone = gone + redis.call('XDEL', KEYS[1], ARGV[i])
  local high, low = struct.unpack('>I4I4', ARGV[i + 1])
  redis.call('ZADD', KEYS[2], high * 4294967296 + low, ARGV[i + 1])
end
return gone
