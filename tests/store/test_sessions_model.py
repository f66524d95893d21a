"""Whatever happens to sessions, in any order: none is forgotten, told twice or overwritten by who knew less.

And that the model would notice: each fault that is put into a script on purpose is found.
"""

from __future__ import annotations

import pytest

from tests.parts import Parts
from tests.store.models import Fault, drive, must_notice
from tests.store.sessions_steps import Sessions

KINDS = ("valkey", "redis")
"""As of queues: a shard is on one server of a cluster too."""


def test_no_session_is_forgotten_told_twice_or_overwritten_by_who_knew_less(small: Parts) -> None:
    drive(Sessions, small, 120)


FAULTS: dict[str, Fault] = {
    "a commit is not fenced by the session": (
        "commit",
        "s.ok = (current and string.sub(current, 1, 4) or '') == s.version",
        "s.ok = true",
        "fenced",
    ),
    "a commit is not fenced by the registry": ("commit", "redis.call('GET', KEYS[2]) or '0') ~= ARGV[2]", "false)", ""),
    "who was overtaken takes the others with it": ("commit", "if s.ok then", "if result[2] == 0 then", ""),
    "what was overtaken is told all the same": ("commit", "result[i + 1] = s.ok and 0 or 1", "result[i + 1] = 0", ""),
    "what settled is asked for": ("commit", "redis.call('ZREM', KEYS[4], s.no)", "", "until it settled"),
    "a due time is lost": ("commit", "redis.call('ZADD', KEYS[4], s.due, s.no)", "", ""),
    "a due time is not kept": ("commit", "redis.call('ZADD', KEYS[4], 'NX', now, s.no)", "", ""),
    "a due time that was kept is now": ("commit", "'ZADD', KEYS[4], 'NX', now", "'ZADD', KEYS[4], now", ""),
    "what was made due meanwhile is put off": ("commit", "s.due = 'leave'\n", "s.due = s.due\n", ""),
    "a lease stays": ("commit", "held and not string.find(held, '.', 1, true)", "held", ""),
    "what was made due meanwhile stays, though it is later": ("commit", "tonumber(held) < tonumber(s.due)", "true", ""),
    "what settled is kept for ever": ("commit", "redis.call('ZADD', KEYS[3], s.expiry, s.member)", "", "expires"),
    "what opened again expires": ("commit", "redis.call('ZREM', KEYS[3], s.member)", "", "expires"),
    "nobody is watched": ("commit", "redis.call('ZADD', KEYS[6], s.watch_at, s.watch_member)", "", "looked at"),
    "one is watched, and not the other": ("commit", "redis.call('RPUSH', s.watch, s.no)", "", ""),
    "nobody looks for an account": ("commit", "redis.call('ZADD', KEYS[1], first[2], ARGV[1])", "", "looked for"),
    "an event is committed twice": (
        "commit",
        "for _, route in ipairs(event.routes) do",
        "redis.call('XADD', KEYS[5], '*', 'r', event.record)\n      for _, route in ipairs(event.routes) do",
        "",
    ),
    "a lease is no lease": ("claim_sessions", "redis.call('ZADD', KEYS[2], unpack(leased))", "", ""),
    "a lease ends on time": ("claim_sessions", "ARGV[2] .. '.5'", "ARGV[2]", "leased"),
    "what is leased rides along": ("claim_sessions", "only_unleased and", "false and", "is due"),
    "what is due rides along": ("claim_sessions", "'(' .. now, now + tonumber(ARGV[5])", "now, now + 1", "ride along"),
    "only the oldest are claimed": ("claim_sessions", "if ARGV[4] ~= '0' then", "if false then", "must be claimed"),
    "a claimed account is not looked for": (
        "claim_sessions",
        "redis.call('ZADD', KEYS[1], first[2], ARGV[1])",
        "",
        "looked for",
    ),
    "what is handed back stays leased": ("reschedule_sessions", "redis.call('ZADD', KEYS[2], unpack(due))", "", ""),
    "another's lease is handed back": ("reschedule_sessions", "tonumber(held) == lease_end", "true", ""),
    "what settled is handed back": ("reschedule_sessions", "held and tonumber(held) == lease_end", "true", ""),
    "what exists is dropped": ("drop_sessions", "redis.call('EXISTS', KEYS[i]) == 0", "true", "until it settled"),
    "what is gone stays due": ("drop_sessions", "redis.call('ZREM', KEYS[2], no)", "", ""),
    "what there is not is made due": ("hasten_sessions", "if found[i - 2] == 1", "if true", ""),
    "nothing is made due": ("hasten_sessions", "'ZADD', KEYS[2], unpack", "'ZADD', KEYS[2], 'NX', unpack", ""),
    "a hint makes what there is not due": ("hint_sessions", "due or redis.call('EXISTS', KEYS[i]) == 1", "true", ""),
    "a hint makes nothing due": ("hint_sessions", "KEYS[2], one[1], one[2])", "KEYS[2], '+inf', one[2])", ""),
    "a hint puts off": ("hint_sessions", "not due or at < tonumber(due)", "true", "sooner"),
    "a forgotten session is asked for": ("forget_sessions", "redis.call('ZREM', KEYS[2], no)", "", ""),
    "a forgotten session expires": ("forget_sessions", "redis.call('ZREM', KEYS[3], ARGV[2] .. no)", "", "expires"),
    "a forgotten session is there": ("forget_sessions", "redis.call('DEL', KEYS[i])", "", ""),
    "what is not over expires": ("expire_sessions", "score and tonumber(score) <= now", "true", ""),
    "what expired is there": ("expire_sessions", "redis.call('DEL', KEYS[i + 1])", "", ""),
    "who was not looked at is forgotten": (
        "trim_watch",
        "redis.call('LINDEX', KEYS[2], 0) == ARGV[2]",
        "true",
        "looked at",
    ),
    "who was looked at is looked at again": ("trim_watch", "redis.call('LTRIM', KEYS[2], ARGV[3], -1)", "", ""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_model_notices(alone: Parts, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    must_notice(Sessions, alone, FAULTS[fault], monkeypatch)
