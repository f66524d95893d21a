"""What operators do to subscriptions: pause them, resume them, change what they say."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from time import monotonic, sleep

from msgspec.structs import replace

from bridge.delivery.guard import check_resolved, parse_url
from bridge.domain.breaker import AT_ONCE
from bridge.domain.subscriptions import UNCHANGED, Changes, Deliver, Subscription, SubscriptionState, check_options
from bridge.errors import UsageError
from bridge.filling import check_since, fill
from bridge.store.credentials import with_changes
from bridge.wiring import Bridge, url_policy


def to_be_filled(bridge: Bridge, account: str, since_ms: int) -> Callable[[Subscription], Subscription]:
    """What makes of a new subscription one that is given what its account's log has since a time (Unix ms).

    It is told nothing until it is resumed.

    Raises:
        UsageError: the log cannot tell.
    """
    check_since(bridge, account, since_ms)
    return lambda one: replace(one, state=SubscriptionState.FILLING, fill_from_ms=since_ms)


def pause(bridge: Bridge, name: str) -> Subscription:
    """Park a subscription's events from now on. What is under way is finished, within a second nothing is begun.

    Raises:
        NotFound: there is none of this id.
        UsageError: it is not active.
    """
    now_ms = bridge.clock.now_ms()
    paused = bridge.subscriptions.change(
        name,
        lambda one: replace(one, state=SubscriptionState.PAUSED, since_ms=now_ms) if one.is_active else None,
    )
    if paused is None:
        raise UsageError(f"{name} is {bridge.subscriptions.get(name).state.value} already")
    _park(bridge, name)
    return paused


def _park(bridge: Bridge, name: str) -> None:
    registry = bridge.subscriptions.load()
    found = registry.by_id().get(name)
    if found is not None and not found.is_active:
        bridge.queues.park(name, registry.versions)


def resume(
    bridge: Bridge, name: str, deliver: Deliver, tell: Callable[[int], None] = lambda _more: None
) -> tuple[Subscription, int]:
    """Send again what happens from now on, and of what waited what ``deliver`` says. Returns how much was dropped.

    Waits for attempts that are still under way: their events must not be sent a second time meanwhile. One that is
    still being filled is filled first, unless nothing is to be delivered; ``tell`` hears how far that has come.

    Raises:
        NotFound: there is none of this id.
        UsageError: it is active.
        BridgeError: it could not be filled.
    """
    found = bridge.subscriptions.get(name)
    if found.is_active:
        raise UsageError(f"{name} is active already")
    _park(bridge, name)
    if found.state is SubscriptionState.FILLING and deliver is not Deliver.NONE:
        fill(bridge, name, tell)
    shards = bridge.settings.shards
    homes = [(name, part.home(shards)) for part in bridge.parts_of(bridge.subscriptions.get(name))]
    deadline = monotonic() + bridge.delivery_policy.hold_ms / 1000 + 1
    while any(bridge.queues.held(homes)) and monotonic() < deadline:
        sleep(0.05)
    # While it is parked: what comes in from now on is not dropped with the rest.
    dropped = 0 if deliver is Deliver.ALL else bridge.queues.start_anew(name, deliver)
    now_ms = bridge.clock.now_ms()
    resumed = bridge.subscriptions.change(
        name,
        lambda one: replace(
            one, state=SubscriptionState.ACTIVE, reason="", since_ms=now_ms, releasing=True, fill_from_ms=0
        ),
    )
    if resumed is None:
        raise AssertionError("a change that is always made was not")
    finish_release(bridge, name)
    return resumed, dropped


def finish_release(bridge: Bridge, name: str) -> None:
    """Serve again every shard of a resumed subscription; done again, after a crash, by whoever finds it undone."""
    bridge.queues.start_anew(name, Deliver.ALL)
    bridge.queues.unpark(name)
    bridge.subscriptions.change(name, lambda one: replace(one, releasing=False) if one.releasing else None)


def edit(
    bridge: Bridge,
    name: str,
    limited: Callable[[Subscription], Subscription] = lambda one: one,
    *,
    url: str | None = None,
    changes: Changes = UNCHANGED,
) -> tuple[Subscription, str | None]:
    """Change a subscription's URL (``url``), options, or limits. Returns it, and a note on the URL's name.

    Its types and statuses go by what happens from now on: what waits is sent all the same. Where it goes to another
    URL, or with other headers or another certificate, what waits is tried at once.

    Raises:
        NotFound: there is none of this id.
        InvalidUrl: the new URL is none that callbacks may go to.
        UsageError: its URL is what it stands for, or its options would not go together.
        SecretsUnreadable: none of BRIDGE_SECRET_KEYS opens what it has.
    """
    old, note = bridge.subscriptions.get(name), None
    if old.implicit and (changes != UNCHANGED or url not in {None, old.url}):
        raise UsageError(f"{name} stands for a URL that sessions name, and hears of those alone: it has limits only")
    if url is not None and url != old.url:
        policy = url_policy(bridge.settings)
        target = parse_url(url, policy)
        url, note = target.url, check_resolved(target, policy)

    def changed(one: Subscription) -> Subscription:
        made = limited(with_changes(one if url is None else replace(one, url=url), changes, bridge.secret_box))
        check_options(made)
        return made

    new = bridge.subscriptions.update(name, changed)
    token = secrets.token_bytes(16)
    # A slice that holds any part of the queue finds the same by itself.
    if new.partitions != old.partitions:
        bridge.queues.forget_health(name, token)
    if (new.url, new.headers, new.identity) != (old.url, old.headers, old.identity):
        # What is known of the receiver is known of another, or of a token that it may have refused.
        for part in bridge.parts_of(new):
            bridge.queues.note_health(token, part, AT_ONCE, held=False)
    return new, note
