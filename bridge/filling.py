"""Giving a new subscription what the log has since a time (``bridge subscriptions add --since``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bridge.domain.events import Record, iso_millis
from bridge.domain.subscriptions import Subscription, SubscriptionState
from bridge.errors import BridgeError, UsageError
from bridge.store.filling import Gap, Page
from bridge.store.subscriptions import Registry
from bridge.wiring import Bridge


def check_since(bridge: Bridge, account: str, since_ms: int) -> None:
    """Whether an account's log can tell of all since a time (Unix ms).

    Raises:
        UsageError: it is still to come, or the log no longer has all since then.
    """
    if since_ms > bridge.clock.now_ms():
        raise UsageError(f"--since: {iso_millis(since_ms)} is still to come; give a time that has been")
    begins_ms = bridge.filling.begins_ms(account)
    if since_ms < begins_ms:
        raise UsageError(
            f"--since: the log of the account {account} has all events from {iso_millis(begins_ms)} on, and no longer "
            "those before: give that time, or a later one"
        )


def fill(bridge: Bridge, name: str, tell: Callable[[int], None]) -> int:
    """Queue what the log has for a subscription that is being filled. Returns how many events this call put.

    Each event is put once, in its place, whoever else fills at the same time, and whatever was put before a crash.
    ``tell`` hears how many were looked at.

    Raises:
        NotFound: it was removed.
        BridgeError: too many would wait; or the log lost some of them before they were read. It goes on filling.
    """
    # Whoever added it may have been stopped before every shard knew: commits there still go by the registry without it.
    bridge.subscriptions.bump()
    registry, one = _filling(bridge, name)
    ends = bridge.log.ends(one.account)
    put = 0
    for page in bridge.filling.pages(one.account, name, one.fill_from_ms, ends):
        if isinstance(page, Gap):
            raise BridgeError(_gap(name, page))
        count = bridge.filling.put(name, page, _wanted(bridge, registry, one, page), registry.versions[page.shard])
        if count is None:
            registry, one = _filling(bridge, name)
            continue
        if count < 0:
            raise BridgeError(
                f"{name} is not filled: more events are to wait for it than BRIDGE_MAX_BACKLOG allows. Raise that and "
                f"`bridge subscriptions resume {name}`, or remove it and add it with a later --since"
            )
        put += count
        tell(len(page.events))
    return put


def _filling(bridge: Bridge, name: str) -> tuple[Registry, Subscription]:
    """The registry as it is by now, while it says that the subscription is being filled."""
    registry = bridge.subscriptions.load()
    one = registry.by_id().get(name) or bridge.subscriptions.get(name)
    if one.state is not SubscriptionState.FILLING:
        raise BridgeError(f"{name} is {one.state.value} by now: somebody else filled and resumed it")
    return registry, one


def _wanted(bridge: Bridge, registry: Registry, one: Subscription, page: Page) -> Sequence[tuple[bytes, Record]]:
    return [
        (position, event)
        for position, event in page.events
        if one.is_to_hear(event) and not _is_erased(bridge, registry, event)
    ]


def _is_erased(bridge: Bridge, registry: Registry, event: Record) -> bool:
    """Whether an erasure that is under way has yet to come to this event."""
    if not registry.erased:
        return False
    return registry.erased.get(bridge.tombstones.of(event.phone), -1) >= event.observed_ms


def _gap(name: str, gap: Gap) -> str:
    return (
        f"{name} is not filled: what was recorded between {iso_millis(gap.after_ms)} and {iso_millis(gap.before_ms)} "
        f"left the log before it was read. Remove it and add it with a later --since; or give the past up: "
        f"`bridge subscriptions resume {name} --deliver none`"
    )
