"""What a cluster, and Sentinels, say of their servers, and whether that is enough to work and to survive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

SLOTS = 16_384


class Member(msgspec.Struct, frozen=True):
    """A node of a cluster as another one sees it. ``moving`` slots are on their way to or from it."""

    id: str
    name: str
    is_master: bool
    master: str
    """The id of the one it is a replica of, "" for a master."""
    is_failed: bool
    slots: int
    moving: int


class Sentinels(msgspec.Struct, frozen=True):
    """What Sentinels say of their group. ``silent`` are those that gave no answer."""

    asked: int
    silent: Sequence[str]
    master: str
    replicas: int
    quorum: int
    known: int
    is_down: bool


def read_members(text: str) -> list[Member]:
    """The answer to CLUSTER NODES, by name."""
    members = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 8:
            continue
        name = fields[1].partition("@")[0]
        flags = fields[2].split(",")
        members.append(
            Member(
                id=fields[0],
                name=name,
                is_master="master" in flags,
                master="" if fields[3] == "-" else fields[3],
                is_failed=bool({"fail", "fail?", "noaddr", "handshake"}.intersection(flags)),
                slots=count_slots(fields[8:]),
                moving=sum(part.startswith("[") for part in fields[8:]),
            )
        )
    return sorted(members, key=lambda member: member.name)


def count_slots(parts: Sequence[str]) -> int:
    """How many slots ranges (``0-5460``, ``7``) are; one that is being moved (``[…]``) counts where it still is."""
    count = 0
    for part in parts:
        if not part.startswith("["):
            first, _, last = part.partition("-")
            count += int(last or first) - int(first) + 1
    return count


def read_sentinels(group: str, answers: Mapping[str, Mapping[str, str] | None]) -> Sentinels:
    """Each Sentinel's answer to SENTINEL MASTER, None of one that gave none. ``group`` stands for an unknown master."""
    heard = [answer for answer in answers.values() if answer is not None]
    best = max(heard, key=lambda answer: int(answer.get("num-other-sentinels", 0)), default={})
    return Sentinels(
        asked=len(answers),
        silent=[name for name, answer in answers.items() if answer is None],
        master=f"{best['ip']}:{best['port']}" if "ip" in best and "port" in best else group,
        replicas=int(best.get("num-slaves", 0)),
        quorum=int(best.get("quorum", 0)),
        known=int(best.get("num-other-sentinels", 0)) + 1 if heard else 0,
        is_down=not heard or "True" in {best.get("is_sdown"), best.get("is_odown")},
    )
