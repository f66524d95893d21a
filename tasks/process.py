"""One worker process: its bridge, opened when the first task needs it, and the work of each task."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from threading import BoundedSemaphore, Event
from time import monotonic

import msgspec

from bridge.announcements import Told, announce
from bridge.delivery.loop import Slice, Surroundings
from bridge.domain.accounts import DEFAULT_ACCOUNT
from bridge.domain.deliveries import part_with
from bridge.domain.tracking import SessionRequest, is_account, machine_of, sort_items, to_wire
from bridge.errors import BridgeError, InvalidSession, UsageError
from bridge.lifecycle import finish_release
from bridge.observe.logs import get_logger
from bridge.polling.flights import Flights
from bridge.polling.flights import Surroundings as PollSurroundings
from bridge.polling.poll import Step
from bridge.settings import load_settings
from bridge.store.attempts import KEPT_MS
from bridge.wiring import USER_AGENT, Bridge
from tasks import reports
from tasks.shutdown import StopSignal
from tasks.store_watch import StoreWatch

_log = get_logger(__name__)

_POLL_BUDGET_S = 15.0
_OVERDUE_BUDGET_S = 20.0
_WAKE_MS = 2_000
_NO_PLACE_MS = 500
_POLL_WAKE_MS = 3_000
"""A run says each second that it goes on; one that was killed is not waited for any longer."""
_EXPIRE_AT_ONCE = 1_000
_COMPLAIN_EVERY_S = 60.0
_SHORT = "the store is at 90 % of its maxmemory"
_SHORT_PAUSE_MS = 5_000
_MOST_RESULTS = 100
_ALL = 100_000
"""Due-sets of a shard to read where none may be missed: behind the queues that nobody can serve wait others."""


Send = Callable[[str, tuple[str, ...]], None]
"""Enqueues a task by name with its arguments."""


class Process:
    """What the tasks of one worker process share. ``stop`` makes its long tasks end early.

    ``most_polls`` run at once: a poll may wait for a provider that hangs, and there is one for each account; they leave
    threads for what else there is to do.
    """

    def __init__(self, send: Send, stopping: StopSignal | None = None, most_polls: int = 5) -> None:
        self._send = send
        self._stopping = stopping or StopSignal()
        self._watch = StoreWatch()
        self._places = BoundedSemaphore(most_polls)
        self._seen_results: set[str] = set()
        self._complaints: dict[tuple[str, str], float] = {}

    @cached_property
    def bridge(self) -> Bridge:
        """The bridge; an unreachable store is tried again by the next task."""
        return Bridge(load_settings())

    def stop(self) -> None:
        """End long tasks soon: the worker is asked to."""
        self._stopping.set()

    def wait(self, seconds: float) -> None:
        """Sleep, unless the worker is asked to end."""
        self._stopping.wait(seconds)

    # bridge.track

    def track(self, items: object, account: object, origin: object = None) -> None:
        """Store the good items and keep the bad ones aside. ``origin`` is what the message says of who sent it."""
        if self.bridge.memory.is_short():
            raise BridgeError(f"{_SHORT}: tracking waits until deliveries have freed some, or maxmemory is raised")
        name = account if isinstance(account, str) and is_account(account) else DEFAULT_ACCOUNT
        try:
            good, bad = sort_items(items)
        except InvalidSession as error:
            good, bad = [], [(0, items, str(error))]
        if account != name and account is not None:
            # Whose they are is not known, and a name of another form would end up inside other accounts' keys.
            bad = [(0, items, "account: give 1 to 32 of the characters a-z, 0-9, _ and -")]
            good = []
        good, callbacks, refused = self._callbacks(name, good)
        bad += refused
        # The good first: a message that comes back because they could not be stored has kept nothing aside yet.
        if good:
            self.bridge.tracking.note_account(name)
            self._store(name, good, callbacks, machine_of(origin))
        if bad:
            self._keep_aside(name, [(_as_text(item), reason) for _, item, reason in bad])

    def _callbacks(
        self, account: str, requests: Sequence[SessionRequest]
    ) -> tuple[list[SessionRequest], dict[str, str], list[tuple[int, object, str]]]:
        """The requests whose callback URLs may be called, the subscription each URL implies, and the others."""
        good: list[SessionRequest] = []
        callbacks: dict[str, str] = {}
        refused: list[tuple[int, object, str]] = []
        for place, request in enumerate(requests):
            url = request.callback_url
            try:
                if url and url not in callbacks:
                    callbacks[url] = self.bridge.callback_for(account, url)
                good.append(request)
            except UsageError as error:
                refused.append((place, to_wire(request), str(error)))
        return good, callbacks, refused

    def _store(self, account: str, good: Sequence[SessionRequest], callbacks: Mapping[str, str], machine: str) -> None:
        try:
            self.bridge.tracker.track(account, good, callbacks, self.bridge.origins.number(machine))
        except BridgeError:
            raise
        except Exception:
            # A fault of ours. The message will not come back, so what it carries must not go with it.
            self._keep_aside(account, [(_as_text(to_wire(one)), "could not be stored: see the log") for one in good])
            raise

    def _keep_aside(self, account: str, rejected: Sequence[tuple[str, str]]) -> None:
        self.bridge.tracking.reject(account, rejected)
        _log.warning("items rejected", account=account, count=len(rejected), first_reason=rejected[0][1])

    def set_aside(self, start: str, reason: str) -> None:
        """Keep what a message began with that cannot be read. Whose it is is not known."""
        self._keep_aside(DEFAULT_ACCOUNT, [(start, f"message: {reason}")])

    # bridge.tick

    def tick(self) -> None:
        """Wake what is due, once."""
        if self._watch.is_other(self.bridge):
            self.__dict__.pop("bridge", None)  # its threads end with what they have
        bridge = self.bridge
        now_ms = bridge.clock.now_ms()
        due = bridge.index.due(now_ms, _ALL)
        # Deliveries first, for they free memory; and what is only noted last: whatever may keep it from being written
        # keeps nothing from being woken.
        if due.queues:
            self._wake_deliver()
        for account in due.accounts:
            self._wake_poll(account)
        bridge.index.note_tick(now_ms)
        if due.accounts and not bridge.memory.is_short():
            for account in due.accounts:
                # Whatever removed its name, an account that has something due is one.
                bridge.tracking.note_account(account)

    # bridge.poll

    def poll(self, account: str) -> None:
        """Poll an account's due sessions until none is left, or the task's time is over.

        Where as many polls run as may, the tick asks for it again.
        """
        if not self._places.acquire(blocking=False):
            self.bridge.wakes.keep(f"poll:{account}", _NO_PLACE_MS)
            return
        try:
            self._poll(account)
        finally:
            self._places.release()

    def _poll(self, account: str) -> None:
        bridge = self.bridge
        wake = f"poll:{account}"
        if bridge.memory.is_short():
            # What it would find has no place. The tick wakes it again.
            self._say("", f"{_SHORT}: polling pauses until deliveries have freed some, or maxmemory is raised")
            bridge.wakes.keep(wake, _SHORT_PAUSE_MS)
            return
        handed_over = Event()

        def hand_over() -> None:
            handed_over.set()
            self._pass_on(account, wake)

        around = PollSurroundings(
            stopping=self._stopping.is_set,
            sleep=self.wait,
            keep_awake=lambda: bridge.wakes.keep(wake, _POLL_WAKE_MS),
            report=partial(self._report_step, account),
            hand_over=hand_over,
        )
        try:
            asleep_ms = Flights(bridge.poller, around, _POLL_BUDGET_S).run(account)
        except BaseException:
            if not handed_over.is_set():
                # Nobody else would look before the wake-up's own time is over.
                with suppress(BridgeError):
                    bridge.wakes.drop(wake)
            raise
        if asleep_ms:
            # Nobody need ask again before then; the tick will.
            bridge.wakes.keep(wake, asleep_ms)
        elif not handed_over.is_set():
            self._pass_on(account, wake)

    def _pass_on(self, account: str, wake: str) -> None:
        """Stop keeping others asleep, and wake one if something is due."""
        bridge = self.bridge
        bridge.wakes.drop(wake)
        if account in bridge.index.due(bridge.clock.now_ms(), _ALL).accounts:
            self._wake_poll(account)

    def _report_step(self, account: str, step: Step) -> None:
        if step.routed:
            self._wake_deliver()
        # Of the first hundred alone: a provider that invents them would fill memory and log.
        for result in sorted(step.unseen_results - self._seen_results)[: _MOST_RESULTS - len(self._seen_results)]:
            self._seen_results.add(result)
            _log.warning("the provider gave a result that no document names; it counts as unknown", result=result)
        reports.step_done(account, step)

    # bridge.deliver

    def deliver(self) -> None:
        """Serve due queues with one slice of the delivery loop."""
        bridge = self.bridge
        around = Surroundings(
            chance=random.random,
            user_agent=USER_AGENT,
            stopping=self._stopping.is_set,
            observe=reports.attempt_failed,
            complain=self._complain,
            disabled=self._disabled,
            call_help=lambda: self._enqueue("bridge.deliver"),
            keep_awake=lambda: bridge.wakes.keep("deliver", _WAKE_MS),
            hand_over=self._hand_over,
        )
        with bridge.transport() as transport:
            report = Slice(
                bridge.delivery_ports, transport, bridge.delivery_policy, around, shards=bridge.settings.shards
            ).run()
        reports.slice_done(report)
        self._hand_over()

    def _disabled(self, subscription: str, reason: str) -> None:
        """Say at once that a slice disabled a subscription; whom that could not be told, the next trim tells."""
        reports.disabled(subscription, reason)
        self._announce(subscription)

    def _announce(self, only: str | None = None) -> list[Told]:
        try:
            return announce(self.bridge, only)
        except BridgeError as error:
            # Nothing is lost: what is counted is told by the next one.
            _log.warning("operators' events could not be recorded; trying again in a minute", reason=str(error))
            return []

    def _hand_over(self) -> None:
        """Stop keeping others asleep, and wake one if something is due that nobody holds."""
        bridge = self.bridge
        bridge.wakes.drop("deliver")
        due = bridge.index.due(bridge.clock.now_ms(), _ALL)
        # One that could not be served a moment ago would only wake a slice after a slice; the tick asks each second.
        known = bridge.subscriptions.load().by_id()
        shards = bridge.settings.shards
        homes = {
            (name, part_with(shard, name, known[name].partitions if name in known else None, shards).home(shards))
            for name, shard in due.queues
            if not self._has_complained(name)
        }
        if not all(bridge.queues.held(sorted(homes))):
            self._wake_deliver()

    def _complain(self, subscription: str, trouble: str) -> None:
        """Say what is wrong with a subscription, once a minute: each slice finds it anew."""
        if self._is_news(subscription, trouble):
            _log.error("subscription cannot be served", subscription=subscription, reason=trouble)

    def _is_news(self, what: str, trouble: str) -> bool:
        now = monotonic()
        # What is over is forgotten: a worker runs for months, and subscriptions come and go.
        lately = {one: at for one, at in list(self._complaints.items()) if now - at < _COMPLAIN_EVERY_S}
        is_news = (what, trouble) not in lately
        if is_news:
            self._complaints = lately | {(what, trouble): now}
        return is_news

    def _say(self, what: str, trouble: str) -> None:
        if self._is_news(what, trouble):
            _log.error(trouble)

    def _has_complained(self, subscription: str) -> bool:
        lately = monotonic() - _COMPLAIN_EVERY_S
        return any(name == subscription and at > lately for (name, _), at in list(self._complaints.items()))

    # bridge.trim

    def trim(self) -> None:
        """Remove what has been kept for long enough."""
        bridge, settings = self.bridge, self.bridge.settings
        now_ms = bridge.clock.now_ms()
        while bridge.sessions.expire(now_ms, _EXPIRE_AT_ONCE) and not self._stopping.is_set():
            pass
        registry = bridge.subscriptions.load()
        for one in registry.by_id().values():
            if one.releasing:
                finish_release(bridge, one.id)  # whoever resumed it was stopped
        audiences = {name: [one.id for one in registry.of(name)] for name in bridge.tracking.accounts()}
        for account, names in audiences.items():
            dropped, kept = bridge.log.trim(account, names, now_ms - settings.keep_events_ms)
            bridge.forget_unused_callbacks(account)
            if dropped:
                _log.info("log trimmed", account=account, dropped=dropped, kept_for_queues=kept)
        bridge.forget_erasures(list(audiences), now_ms)
        self._limit(audiences, list(registry.by_id()))
        bridge.attempts.trim(registry.by_id(), now_ms - KEPT_MS)
        bridge.queues.trim_dead(list(registry.by_id()), now_ms - settings.keep_dead_ms)
        self._tell_overdue()
        for told in self._announce():
            reports.told(told)

    def _tell_overdue(self) -> None:
        """Tell of sessions that are overdue: here, and not by polls, which end where the provider does."""
        deadline = monotonic() + _OVERDUE_BUDGET_S
        overdue = 0
        while monotonic() < deadline and not self._stopping.is_set():
            told = self.bridge.watch.look()
            if told is None:
                break
            overdue += told.overdue
            if told.routed:
                self._wake_deliver()
        if overdue:
            _log.warning("sessions are overdue", count=overdue, hint="the provider says to ask its support")

    def _limit(self, audiences: Mapping[str, Sequence[str]], names: Sequence[str]) -> None:
        """Apply the limits that no other call does."""
        bridge = self.bridge
        dropped = bridge.log.trim_to(audiences, bridge.settings.log_bytes)
        if dropped:
            _log.warning("log is over BRIDGE_LOG_BYTES; its oldest events left it early", dropped=dropped)
        bridge.limits.share_backlog(names)
        bridge.limits.limit_kept(names)
        bridge.limits.limit_dead(names)

    def _wake_poll(self, account: str) -> None:
        if self.bridge.wakes.take(f"poll:{account}", _WAKE_MS):
            self._enqueue("bridge.poll", account)

    def _wake_deliver(self) -> None:
        if self.bridge.wakes.take("deliver", _WAKE_MS):
            self._enqueue("bridge.deliver")

    def _enqueue(self, task: str, *args: str) -> None:
        """Have somebody go on. Where the broker takes nothing that is for a later tick, which finds what is due; a
        slice with POSTs under way, whose outcomes would be lost with it, does not end for that.
        """
        try:
            self._send(task, args)
        except Exception as error:  # noqa: BLE001 - of each transport others, and not only those that it documents
            self._say(task, f"{task} could not be enqueued ({type(error).__name__}); the next tick tries again")


def _as_text(item: object) -> str:
    """An item that was refused, as JSON where it can be: a foreign sender's may hold anything."""
    try:
        return msgspec.json.encode(item).decode()
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        return json.dumps(item, default=repr, skipkeys=True)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(f"not JSON: {type(item).__name__}")
