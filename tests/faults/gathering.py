"""The records, from whoever kept them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from tests.faults.receivers import members_of
from tests.faults.records import Answers, Asked, Attempt, Fault, Hindrance, Journal, Post, Word, meaning_of


def answers(page: Callable[[int], Any]) -> Answers:
    """The provider's own record, of which ``page`` gives a part: all after an answer's number."""
    words: list[Word] = []
    answered: dict[str, list[int]] = {}
    by_fault: dict[str, int] = {}
    after = 0
    while entries := page(after)["entries"]:
        for entry in entries:
            after = entry["n"]
            by_fault[entry["fault"]] = by_fault.get(entry["fault"], 0) + 1
            if entry["ret_code"] != 0:
                continue
            for session in entry["sessions"]:
                answered.setdefault(session["session_no"], []).append(entry["at_ms"])
                words += [_word(entry["at_ms"], session["session_no"], one) for one in session["receipts"]]
    return Answers(
        words=tuple(words), answered_ms={no: tuple(times) for no, times in answered.items()}, by_fault=by_fault
    )


def _word(at_ms: int, session_no: str, receipt: Mapping[str, Any]) -> Word:
    return Word(
        at_ms=at_ms,
        session_no=session_no,
        phone=receipt["phone"],
        user_id=receipt["user_id"],
        status=meaning_of(receipt["result"], receipt["code"]),
        time=receipt["time"],
    )


def lags(posts: Sequence[Post]) -> tuple[int, ...]:
    """From when a change was seen to when it was accepted, in ms."""
    found = []
    for post in posts:
        if post.accepted:
            for event in members_of(post):
                seen_ms = round(datetime.fromisoformat(str(event["timestamp"])).timestamp() * 1000)
                found.append(post.decided_ms - seen_ms)
    return tuple(found)


def recovered(fault: Fault, accepted: list[int]) -> Fault:
    after = next((at_ms for at_ms in accepted if at_ms >= fault.until_ms), 0)
    return msgspec.structs.replace(fault, recovered_ms=after)


def lines_of(directory: Path) -> list[str]:
    """The whole lines of all files of a directory."""
    found: list[str] = []
    for file in sorted(directory.iterdir()):
        whole, _, _cut_off = file.read_text().rpartition("\n")
        found += whole.splitlines()
    return found


def journal(lines: Iterable[str]) -> Journal:
    """What workers wrote down from within."""
    attempts: dict[str, Attempt] = {}
    asked: dict[str, Asked] = {}
    hindrances: list[Hindrance] = []
    last_ms: dict[int, int] = {}
    for line in lines:
        one = json.loads(line)
        at_ms, pid, name = one["at"], one["pid"], one.get("name", "")
        last_ms[pid] = max(at_ms, last_ms.get(pid, 0))
        match one["what"]:
            case "sent":
                attempts[name] = Attempt(name=name, pid=pid, sent_ms=at_ms)
            case "heard":
                heard = {"heard_ms": at_ms, "code": one["code"], "status": one["status"]}
                attempts[name] = msgspec.structs.replace(attempts[name], **heard)
            case "dropped":
                attempts[name] = msgspec.structs.replace(attempts[name], dropped_ms=at_ms)
            case "asked":
                asked[name] = _asked(one)
            case "answered":
                lanes = tuple(one.get("lanes", asked[name].lanes))
                asked[name] = msgspec.structs.replace(asked[name], answered_ms=at_ms, reply=one["reply"], lanes=lanes)
            case "awake":
                pass
            case "stood still":
                hindrances.append(Hindrance(pid=pid, what="stood still", since_ms=one["since"], until_ms=at_ms))
            case "broken":
                what = f"store failed ({one['said']})"
                hindrances.append(Hindrance(pid=pid, what=what, since_ms=at_ms, until_ms=at_ms))
            case other:
                raise ValueError(f"no line of a journal: {other}")
    in_order = sorted(asked.values(), key=lambda call: call.asked_ms)
    return Journal(attempts=attempts, asked=tuple(in_order), hindrances=tuple(hindrances), last_ms=last_ms)


def _asked(one: Mapping[str, Any]) -> Asked:
    return Asked(
        pid=one["pid"],
        script=one["script"],
        subscription=one["subscription"],
        shard=one["shard"],
        token=one["token"],
        asked_ms=one["at"],
        hold_ms=one.get("hold_ms", 0),
        accepted=tuple((millis, sequence) for millis, sequence in one.get("accepted", ())),
        server=one["server"],
        lanes=tuple(one.get("lanes", ())),
    )
