"""``bridge sessions``: what is tracked, how far it has come, and when it is asked for next."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli.common import Account, Json, Limit, accounts_of, audited, moment, opened
from bridge.cli.output import At, progress, show, table
from bridge.domain.receipts import Status
from bridge.domain.status import PhoneState, SessionState
from bridge.errors import BridgeError, NotFound

if TYPE_CHECKING:
    from bridge.wiring import Bridge

sessions = typer.Typer(no_args_is_help=True)

_COLUMNS = {
    "session_no": "session",
    "account": "account",
    "state": "state",
    "phones": "phones",
    "sent_at": "sent",
    "polled_at": "last poll",
    "next_poll_at": "next poll",
    "settled_at": "settled",
}
PHONE_COLUMNS = {
    "phone": "phone",
    "user_id": "user id",
    "status": "status",
    "sequence": "sequence",
    "receipt_at": "receipt",
    "changed_at": "changed",
}


_POLL_COLUMNS = {"at": "poll", "outcome": "result"}
_AT_ONCE = 500


class State(StrEnum):
    """What may be asked for: open, those still polled, and of these the due, the overdue and the quarantined; settled;
    damaged, whose bytes cannot be read."""

    OPEN = "open"
    DUE = "due"
    OVERDUE = "overdue"
    QUARANTINED = "quarantined"
    SETTLED = "settled"
    DAMAGED = "damaged"


@sessions.command("list")
def list_(
    state: Annotated[
        State | None,
        typer.Option(
            help="Those still polled (open); of these those whose poll is due, those without a final status for too "
            "long, those that the provider refuses to be asked for; those done with; those that cannot be read."
        ),
    ] = None,
    account: Account = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List sessions, those tracked last first, or the longest due. "phones" counts final / seen / expected ones.

    \b
    bridge sessions list --state open --limit 20
    bridge sessions list --state overdue --account shop --json
    """
    with opened() as bridge:
        if state is State.DAMAGED:
            _list_damaged(bridge, account, json=json)
            return
        if state is State.DUE:
            found = _due(bridge, account, limit)
        else:
            found = heapq.nlargest(limit, _walk(bridge, account, state), key=lambda one: one[2].tracked_ms)
        # One that was written while we walked may have come twice.
        distinct = {(name, number): after for name, number, after in found}
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
        stored = {name: bridge.sessions.read(name, [session])[session] for name in accounts_of(bridge, account)}
        found = {name: one.state for name, one in stored.items() if one.state is not None}
        if not found and any(one.damaged for one in stored.values()):
            raise BridgeError(f"session {session} cannot be read: track it again, which begins it anew")
        if not found:
            kept = "settled ones are removed after BRIDGE_KEEP_SETTLED"
            raise NotFound(f"no session {session}{f' of {account}' if account else ''}: not tracked, or gone ({kept})")
        details = [_detail(bridge, name, session, state) for name, state in found.items()]
    for detail, state in zip(details, found.values(), strict=True):
        phones = [phone_row(phone) for phone in state.phones]
        if json:
            show(detail | {"phones": phones}, json=True)
            continue
        detail.pop("polls")
        awaiting = [phone if user is None else f"{phone} (user id {user})" for phone, user in state.awaiting]
        counts = ", ".join(f"{'?' if count is None else count} {name}" for name, count in _tally(state).items())
        show(detail | {"phones": counts, "awaiting": awaiting}, json=False)
        if state.polls:
            print()
            table(_polls(state), _POLL_COLUMNS, json=False)
        if phones:
            print()
            table(phones, PHONE_COLUMNS, json=False)


@sessions.command("poll-now")
def poll_now(
    session_nos: Annotated[list[str], typer.Argument(metavar="SESSION…", help="SessionNos.")],
    account: Account = None,
    json: Json = False,
) -> None:
    """Ask the provider for sessions now; for a settled one once more, as where a late receipt is expected.

    They come first in the account's calls, within its rate; `bridge sessions show` tells what came of it.

    \b
    bridge sessions poll-now nAQDODtO xBBDODtP
    """
    with opened() as bridge:
        found: set[str] = set()
        for name in accounts_of(bridge, account):
            for at in range(0, len(session_nos), _AT_ONCE):
                found |= bridge.sessions.poll_now(name, session_nos[at : at + _AT_ONCE])
    missing = [no for no in dict.fromkeys(session_nos) if no not in found]
    if json:
        show({"due": [no for no in dict.fromkeys(session_nos) if no in found], "missing": missing}, json=True)
    else:
        print(f"{len(found):,} session{'' if len(found) == 1 else 's'} due now")
    if missing:
        raise _none_of(missing)


@sessions.command()
def forget(
    session_nos: Annotated[list[str], typer.Argument(metavar="SESSION…", help="SessionNos.")],
    account: Account = None,
    json: Json = False,
) -> None:
    """Forget sessions: they are not polled any more, and their metadata and phones' statuses are gone.

    Events that were recorded of them stay: what waits is delivered, and they can be read and sent again for as long as
    the log keeps them. A session that is tracked again begins anew; what is then observed again keeps its id, so that a
    receiver that deduplicates is told nothing twice.

    \b
    bridge sessions forget nAQDODtO
    """
    with opened() as bridge:
        forgotten: set[str] = set()
        details: dict[str, object] = {"sessions": len(set(session_nos)), "account": account or "all"}
        with audited(bridge, "sessions forget", details=details):
            for name in accounts_of(bridge, account):
                for at in range(0, len(session_nos), _AT_ONCE):
                    forgotten.update(bridge.sessions.forget(name, session_nos[at : at + _AT_ONCE]))
    asked = list(dict.fromkeys(session_nos))
    missing = [no for no in asked if no not in forgotten]
    if json:
        show({"forgotten": [no for no in asked if no in forgotten], "missing": missing}, json=True)
    else:
        print(f"{len(forgotten):,} session{'' if len(forgotten) == 1 else 's'} forgotten; their events stay")
    if missing:
        raise _none_of(missing)


def _none_of(missing: list[str]) -> NotFound:
    return NotFound(f"no session {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}: not tracked, or gone")


def _due(bridge: Bridge, account: str | None, limit: int) -> list[tuple[str, str, SessionState]]:
    """The sessions that are due, the longest first."""
    now_ms = bridge.clock.now_ms()
    due = [
        (due_ms, name, session_no)
        for name in accounts_of(bridge, account)
        for session_no, due_ms in bridge.sessions.due(name, now_ms, limit).items()
    ]
    found: list[tuple[str, str, SessionState]] = []
    for _, name, session_no in heapq.nsmallest(limit, due):
        state = bridge.sessions.read(name, [session_no])[session_no].state
        if state is not None:
            found.append((name, session_no, state))
    return found


def _walk(bridge: Bridge, account: str | None, state: State | None) -> Iterator[tuple[str, str, SessionState]]:
    with progress("reading sessions") as advance:
        for name in accounts_of(bridge, account):
            for session_no, one in bridge.sessions.scan(name):
                advance(1)
                if _is_in(state, one):
                    yield name, session_no, one


def _list_damaged(bridge: Bridge, account: str | None, *, json: bool) -> None:
    rows = [
        {"session_no": session_no, "account": name, "state": State.DAMAGED.value}
        for name in accounts_of(bridge, account)
        for session_no in bridge.sessions.damaged(name)
    ]
    table(rows, {"session_no": "session", "account": "account", "state": "state"}, json=json)
    if not rows and not json:
        print("no sessions")


def _is_in(wanted: State | None, state: SessionState) -> bool:
    """Whether a session is among those asked for. One may be in several: quarantined, overdue and open at once."""
    if wanted is State.OPEN:
        return not state.settled_ms
    if wanted is State.OVERDUE:
        return state.overdue and not state.settled_ms
    return wanted in {None, _state_of(state)}


def _state_of(state: SessionState) -> State:
    if state.refused:
        return State.QUARANTINED
    if state.settled_ms:
        return State.SETTLED
    return State.OVERDUE if state.overdue else State.OPEN


def _summary(bridge: Bridge, account: str, session_no: str, state: SessionState) -> dict[str, object]:
    due_ms = bridge.sessions.due_ms(account, session_no)
    return {
        "session_no": session_no,
        "account": account,
        "state": _state_of(state).value,
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
        "tracked_by": bridge.origins.name(state.origin) or None,
        "expected_count": state.expected_count,
        "refused": state.refused or None,
        "overdue": state.overdue,
        "polls": _polls(state),
        "awaiting": [{"phone": phone, "user_id": user} for phone, user in state.awaiting],
        "metadata": msgspec.json.decode(state.metadata) if state.metadata else {},
    }


def _polls(state: SessionState) -> list[dict[str, object]]:
    return [{"at": At(ms=one.at_ms), "outcome": one.outcome} for one in state.polls]


def phone_row(phone: PhoneState) -> dict[str, object]:
    """A phone with its status, as a row."""
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
