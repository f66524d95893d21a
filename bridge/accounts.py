"""What operators do to accounts: see whether their credentials work, and take one away with all that is its own."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from itertools import islice

import msgspec

from bridge.domain.accounts import DEFAULT_ACCOUNT
from bridge.errors import BridgeError, NotFound, ProviderError, RequestError, TransientProviderError
from bridge.wiring import Bridge

_NOBODY = "bridge-doctor"
"""A SessionNo that nobody was ever given."""
_AT_ONCE = 500


class Class(StrEnum):
    """How the provider took one harmless call: ``bridge.errors`` draws the same lines."""

    OK = "ok"
    THROTTLED = "throttled"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"


class Checked(msgspec.Struct, frozen=True):
    """What a call of an account came to, and what to do about it ("" where nothing is, or the detail says so)."""

    account: str
    result: Class
    detail: str
    action: str = ""


def account_names(bridge: Bridge) -> list[str]:
    """Every account there is: ``default``, those with credentials, and those that have tracked."""
    stored = {one.name for one in bridge.accounts.all()}
    return sorted({DEFAULT_ACCOUNT, *stored, *bridge.tracking.accounts()})


def check(bridge: Bridge, account: str) -> Checked:
    """Make one call of an account, for a session that does not exist."""
    try:
        bridge.providers.of(account).fetch_receipts([_NOBODY])
    except RequestError:
        pass  # It knows no such session, and says so: the account passed.
    except TransientProviderError as error:
        if error.throttled:
            return Checked(account, Class.THROTTLED, str(error), "lower its rate: the provider takes fewer calls")
        action = f"check {_where(account)}, and that this machine reaches it; try again"
        return Checked(account, Class.UNREACHABLE, str(error), action)
    except ProviderError as error:
        return Checked(account, Class.REFUSED, str(error))
    return Checked(account, Class.OK, f"{bridge.providers.url(account)} takes the keys of the account {account}")


def _where(account: str) -> str:
    return "BRIDGE_PROVIDER_URL" if account == DEFAULT_ACCOUNT else "its --provider-url (default: BRIDGE_PROVIDER_URL)"


class Belongings(msgspec.Struct, frozen=True):
    """What an account has: sessions that are still asked for, and those done with; subscriptions, with the events
    that wait for them and those given up; events in the log."""

    unsettled: int
    settled: int
    subscriptions: int
    waiting: int
    dead: int
    events: int

    @property
    def is_busy(self) -> bool:
        """Whether somebody may still wait for news of it."""
        return bool(self.unsettled or self.waiting)


def belongings(bridge: Bridge, account: str) -> Belongings:
    """Count what an account has.

    Raises:
        NotFound: there is no such account.
    """
    if account not in account_names(bridge):
        raise NotFound(f"no account {account}: see `bridge accounts list`")
    names = [one.id for one in bridge.subscriptions.load().of(account)]
    tallies = bridge.queues.tallies(names).values()
    unsettled = bridge.sessions.unsettled(account)
    return Belongings(
        unsettled=unsettled,
        settled=max(0, sum(1 for _ in bridge.sessions.scan(account)) - unsettled),
        subscriptions=len(names),
        waiting=sum(tally.waiting for tally in tallies),
        dead=sum(tally.dead for tally in tallies),
        events=bridge.log.length(account),
    )


def remove(bridge: Bridge, account: str, *, force: bool, advance: Callable[[int], None]) -> Belongings:
    """Take an account away with all that is its own. Returns what that was; ``advance`` hears of sessions removed.

    What is half removed after a crash is removed by doing it again: the name goes last.

    Raises:
        NotFound: there is no such account.
        BridgeError: it is still in use, and ``force`` does not say to drop that.
    """
    had = belongings(bridge, account)
    if had.is_busy and not force:
        raise BridgeError(
            f"the account {account} has {had.unsettled:,} sessions that are not settled and {had.waiting:,} events "
            "that wait to be delivered: wait until they are, or drop them with --force"
        )
    for one in bridge.subscriptions.load().of(account):
        bridge.unsubscribe(one.id)
    walk = (session_no for session_no, _ in bridge.sessions.scan(account))
    while batch := list(islice(walk, _AT_ONCE)):
        bridge.sessions.forget(account, batch)
        advance(len(batch))
    bridge.accounts.remove(account, bridge.settings.shards)
    return had
