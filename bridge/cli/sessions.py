"""``bridge sessions``: what is tracked, how far it has come, and when it is asked for next."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli.common import Account, Json, Limit, accounts_of, moment, opened
from bridge.cli.output import At, progress, show, table
from bridge.domain.receipts import Status
from bridge.domain.status import PhoneState, SessionState
from bridge.errors import NotFound

if TYPE_CHECKING:
    from bridge.wiring import Bridge

sessions = typer.Typer(no_args_is_help=True)

_COLUMNS = {
    "session_no": "session",
    "account": "account",
    "phones": "phones",
    "sent_at": "sent",
    "polled_at": "last poll",
    "next_poll_at": "next poll",
    "settled_at": "settled",
}
_PHONE_COLUMNS = {
    "phone": "phone",
    "user_id": "user id",
    "status": "status",
    "sequence": "sequence",
    "receipt_at": "receipt",
    "changed_at": "changed",
}


class State(StrEnum):
    """Whether a session is still asked for."""

    OPEN = "open"
    SETTLED = "settled"


@sessions.command("list")
def list_(
    state: Annotated[State | None, typer.Option(help="Those still asked for, or those done with.")] = None,
    account: Account = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List sessions, those tracked last first. "phones" counts final / seen / expected ones.

    \b
    bridge sessions list --state open --limit 20
    """
    with opened() as bridge:
        newest = heapq.nlargest(limit, _walk(bridge, account, state), key=lambda found: found[2].tracked_ms)
        # One that was written while we walked may have come twice.
        distinct = {(name, number): after for name, number, after in newest}
        rows = [_summary(bridge, name, number, one) for (name, number), one in distinct.items()]
    if not json:
        rows = [row | {"phones": _counts(row["phones"])} for row in rows]
    table(rows, _COLUMNS, json=json)
    if not rows and not json:
        print("no sessions")


@sessions.command("show")
def show_(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="Its SessionNo.")],
    account: Account = None,
    json: Json = False,
) -> None:
    """Show a session with its phones: their statuses, and what is still awaited.

    \b
    bridge sessions show nAQDODtO
    """
    with opened() as bridge:
        found = {
            name: state
            for name in accounts_of(bridge, account)
            if (state := bridge.sessions.read(name, [session])[session].state) is not None
        }
        if not found:
            kept = "settled ones are removed after BRIDGE_KEEP_SETTLED"
            raise NotFound(f"no session {session}{f' of {account}' if account else ''}: not tracked, or gone ({kept})")
        details = [_detail(bridge, name, session, state) for name, state in found.items()]
    for detail, state in zip(details, found.values(), strict=True):
        phones = [_phone(phone) for phone in state.phones]
        if json:
            show(detail | {"phones": phones}, json=True)
            continue
        awaiting = [phone if user is None else f"{phone} (user id {user})" for phone, user in state.awaiting]
        counts = ", ".join(f"{'?' if count is None else count} {name}" for name, count in _tally(state).items())
        show(detail | {"phones": counts, "awaiting": awaiting}, json=False)
        if phones:
            print()
            table(phones, _PHONE_COLUMNS, json=False)


def _walk(bridge: Bridge, account: str | None, state: State | None) -> Iterator[tuple[str, str, SessionState]]:
    with progress("reading sessions") as advance:
        for name in accounts_of(bridge, account):
            for session_no, one in bridge.sessions.scan(name):
                advance(1)
                if state is None or (state is State.SETTLED) == bool(one.settled_ms):
                    yield name, session_no, one


def _summary(bridge: Bridge, account: str, session_no: str, state: SessionState) -> dict[str, object]:
    due_ms = None if state.settled_ms else bridge.sessions.due_ms(account, session_no)
    return {
        "session_no": session_no,
        "account": account,
        "state": (State.SETTLED if state.settled_ms else State.OPEN).value,
        "phones": _tally(state),
        "sent_at": At(ms=state.sent_ms),
        "tracked_at": At(ms=state.tracked_ms),
        "polled_at": moment(state.polled_ms),
        "next_poll_at": None if due_ms is None else At(ms=due_ms),
        "settled_at": moment(state.settled_ms),
    }


def _detail(bridge: Bridge, account: str, session_no: str, state: SessionState) -> dict[str, object]:
    import msgspec

    return _summary(bridge, account, session_no, state) | {
        "expected_count": state.expected_count,
        "awaiting": [{"phone": phone, "user_id": user} for phone, user in state.awaiting],
        "metadata": msgspec.json.decode(state.metadata) if state.metadata else {},
    }


def _phone(phone: PhoneState) -> dict[str, object]:
    return {
        "phone": phone.phone,
        "user_id": phone.user_id or None,
        "status": Status(phone.status).text,
        "final": Status(phone.status).is_final,
        "sequence": phone.sequence,
        "receipt_at": moment(phone.receipt_time * 1000),
        "changed_at": moment(phone.changed_ms),
        "expected": phone.expected,
    }


def _tally(state: SessionState) -> dict[str, int | None]:
    return {
        "final": sum(Status(phone.status).is_final for phone in state.phones),
        "seen": len(state.phones),
        "expected": state.expected_count,
    }


def _counts(tally: object) -> str:
    """Such as ``1 / 2 / 3``; an expectation that nobody gave is ``?``."""
    assert isinstance(tally, dict)  # noqa: S101 - as _tally made it
    return " / ".join("?" if count is None else str(count) for count in tally.values())
