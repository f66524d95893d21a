#!lua flags=allow-oom
-- Put a message of the bridge's own into a queue, even with memory short.
--
-- KEYS  1 queue (list)    ARGV  1 message
--
-- Returns how many wait. There are few of them at any time (one for each thing to wake, and ticks while few wait), and
-- delivery, which frees memory, cannot go on without them. Senders use plain LPUSH, which is refused then.
--
-- A crash before: nothing happened. After: the message is in the queue, and may be put there again: it is a hint.
return redis.call('LPUSH', KEYS[1], ARGV[1])
