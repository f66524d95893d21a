"""One run: a world, a crowd, faults by a plan, then peace; and the records of all of it.

``play(plan)`` starts everything, makes the faults one after another while SMS are sent and tracked, heals what it hurt,
waits until everything has drained, and reads the four records.
"""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from bridge.cli.family import Family
from tests.faults import mischief
from tests.faults.audience import Audience
from tests.faults.crew import Crew
from tests.faults.crowd import Operator, Sender, scenario
from tests.faults.gathering import answers, journal, lags, recovered
from tests.faults.names import RECEIVERS
from tests.faults.plans import Plan
from tests.faults.reading import Reader
from tests.faults.receivers import Application, Receivers, now_ms
from tests.faults.records import TO_RECEIVERS, Fault, Kind, Records, Secret, Subscriber
from tests.faults.watchers import EVENTS, SENTRY, EventWatch, SentrySink
from tests.faults.world import SHARDS, World
from tests.waiting import NotInTime, wait_until

_MOMENT_S = 1.0
_STARTED_WITHIN_S = 150.0
"""Patience is for what may never come. A start does, however many others the machine starts."""


class Run:
    """A plan while it is played."""

    def __init__(self, plan: Plan, family: Family) -> None:
        self.plan = plan
        self.chance = random.Random(plan.seed)
        self.world = World(
            family,
            scenario=scenario(plan.seed, plan.words_over_s),
            settings={},
            own_broker=plan.own_broker,
            store=plan.store,
        )
        self.sentry = SentrySink()
        self.world.sentry_dsn = self.sentry.dsn
        self.receivers = Receivers()
        self.operator = Operator(self.world, self.receivers)
        self.audience = Audience(self.operator, plan.seed)
        self.crew = Crew(self.world, self.chance, stops=plan.stops, bugs=plan.bugs)
        self.faults: list[Fault] = []
        self.sender: Sender
        self.reader: Reader
        self._events: EventWatch
        self._ended = threading.Event()
        self._lags: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def close(self) -> None:
        self._ended.set()
        if hasattr(self, "sender"):
            self.sender.quit()
        if hasattr(self, "reader"):
            self.reader.close()
        if hasattr(self, "_events"):
            self._events.close()
        self.receivers.close()
        self.sentry.close()
        self.world.close()

    def play(self) -> Records:
        self.start()
        try:
            self._make_trouble()
            stuck = ""
        except NotInTime as error:
            # What is known then is what somebody needs who looks for the reason.
            stuck = f"{error}; {self._state()}"
        self._finish_sending()
        self._heal()
        left = self._drain()
        if self.plan.neighbours:
            self._stand_beside()
        # Now with applications that are well: what may be left waits for one of them, which was left alone for a while.
        self._heal_applications()
        return self.records("; ".join(filter(None, [self.sender.error, stuck, left and self._drain()])))

    def _state(self) -> str:
        """Where all stands, for whoever looks for the reason why nothing goes on."""
        found = self.sessions()
        queues = self.reader.lengths(self.world.broker.url)
        settled = sum(bool(one.settled_ms) for one in found.values())
        sender = f"sent {len(self.sender.tracked)}, {self.sender.failed} times in vain"
        return f"{sender}; {len(found)} stored, {settled} settled; queued: {queues}; calls: {self.reader.calls()}"

    def _make_trouble(self) -> None:
        self.warm_up()
        if self.plan.held_back:
            self.operator.do("pause", self._application("well"))
        self.sender.start()
        for name in self.plan.faults:
            self._await_work()
            time.sleep(self.chance.uniform(0, 1) * self.plan.pause_s)
            self.make(name)
            self.crew.look_after()
        self.crew.die_at_each_stop(self.plan.patience_s)
        if self.plan.held_back:
            self._finish_sending()
            wait_until("all is settled", self._is_settled, self.plan.patience_s)
            self.operator.do("resume", self._application("well"), "--deliver", "all")

    def warm_up(self) -> None:
        """Until callbacks are accepted: to processes that still start, faults are none."""
        self.sender.send()

        def is_at_work() -> bool:
            self.crew.look_after()
            return self.accepted() > 0

        wait_until("the first callback is accepted", is_at_work, _STARTED_WITHIN_S)

    def _await_work(self) -> None:
        """A fault shows nothing of an idle bridge: something was accepted since the last one."""
        before = self.accepted()
        wait_until("callbacks are accepted again", lambda: self._is_at_work(before), self.plan.patience_s)

    def _is_at_work(self, before: int) -> bool:
        self.crew.look_after()
        return self.accepted() > before + 2

    def accepted(self) -> int:
        """How many POSTs were accepted so far."""
        return sum(application.accepted() for application in self.receivers.applications)

    def _finish_sending(self) -> None:
        self.sender.enough.set()
        while self.sender.is_alive():
            self.crew.look_after()
            self.sender.join(0.1)

    def start(self) -> None:
        self.world.start()
        self.reader = Reader(self.world.store.client(), SHARDS)
        self._events = EventWatch(self.world.broker.url)
        self._events.start()
        link = self.world.proxy.link("receivers", "127.0.0.1", self.receivers.port)
        self.world.proxy.link("receivers by TLS", "127.0.0.1", self.receivers.port, self.world.identities.contexts)
        self.receivers.host = self.world.names.of(RECEIVERS)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda kind: self._subscribe(kind, link.port), self.plan.applications))
        callback = self.audience.by_session.url if self.audience.by_session else ""
        self.sender = Sender(self.world, self.plan.seed, self.plan.sessions, self.plan.per_s, callback=callback)
        self.crew.start(self.plan.workers, web=self.plan.web)
        threading.Thread(target=self._note_sizes, name="sizes", daemon=True).start()

    def _note_sizes(self) -> None:
        while not self._ended.wait(0.1):
            self.world.store.note_size()

    def _subscribe(self, kind: str, port: int) -> None:
        links = self.world.proxy.links
        self.audience.subscribe(kind, port, links["receivers by TLS"].port, self.receivers.canary_urls)

    @property
    def removable(self) -> list[Application]:
        """Those that a fault may remove."""
        return self.audience.removable

    # What faults use.

    def make(self, name: str) -> None:
        """Make one fault now."""
        act, kind = mischief.CATALOGUE[name]
        at_ms = now_ms()
        detail = act(self, self.chance)
        self.faults.append(Fault(name=name, kind=kind, at_ms=at_ms, until_ms=now_ms(), detail=detail))

    def any_application(self, chance: random.Random) -> Application:
        """One that is subscribed and stays so."""
        names = ("well", "moody", "batches")
        return chance.choice([one for one in self.operator.applications.values() if one.name in names])

    def settle_steering(self) -> None:
        """Wait until what operators did is surely on the disk."""
        last_ms = max((action.done_ms for action in self.operator.actions), default=0)
        time.sleep(max(0.0, (last_ms + 3000 - now_ms()) / 1000))

    def settle_all(self) -> None:
        """Wait until what operators did, and all trackings but those of this moment, are surely on every server."""
        self.settle_steering()
        # What is sent while others are waited for is to be no older than a crash excuses.
        while True:
            began = time.monotonic()
            self.wait_for_trackings()
            if time.monotonic() - began < _MOMENT_S:
                return

    def wait_for_trackings(self, within_s: float = 90.0) -> None:
        """Wait until no tracking waits in the broker: it would be lost with it."""
        sent = {one.session_no for one in self.sender.tracked} - self._excused()
        wait_until("what was sent so far is tracked", lambda: sent <= {no for _, no in self.sessions()}, within_s)

    def sessions(self) -> dict[tuple[str, str], Any]:
        return dict(self.reader.sessions("default"))

    # The end.

    def _stand_beside(self) -> None:
        """A receiver that hangs beside a well one: how late is what that hears, without it and with it?"""
        well = self._application("well")
        count = len(well.posts)
        self._subscribe("hanging", self.receivers.port)
        hanging = self._application("hanging")
        again = Sender(self.world, self.chance.randrange(10**6), self.plan.sessions, self.plan.per_s)
        again.enough.set()
        again.start()
        again.join()
        self.sender.tracked += again.tracked
        # Long enough for whoever would wait for those that hang; it may be over earlier.
        deadline = time.monotonic() + 12
        while time.monotonic() < deadline and not (hanging.posts and self._is_idle(well)):
            time.sleep(0.1)
        self._lags = (lags(well.named_posts()[:count]), ())
        hanging.heal()
        # What waits for it would be tried again in half a minute only: it was left alone.
        self.operator.remove(hanging)
        self._drain()
        self._lags = (self._lags[0], lags(well.named_posts()[count:]))
        again.quit()

    def _application(self, name: str) -> Application:
        return next(one for one in self.receivers.applications if one.name == name)

    def _is_idle(self, application: Application) -> bool:
        return self._is_settled() and not self.reader.queue(application.subscription).waiting

    def _is_settled(self) -> bool:
        self.crew.look_after()
        return all(one.settled_ms for one in self.sessions().values())

    def _heal(self) -> None:
        self.world.proxy.heal()
        self.world.steer_provider({})
        self.crew.look_after()

    def _heal_applications(self) -> None:
        for application in self.receivers.applications:
            application.heal()

    def _drain(self) -> str:
        """Wait until nothing is left to do. Returns what is left if it takes too long."""
        left = "?"

        def is_drained() -> bool:
            nonlocal left
            self.crew.look_after()
            left = self._left()
            return not left

        try:
            wait_until("drained", is_drained, self.plan.patience_s, every_s=0.2)
        except NotInTime:
            return left
        return ""

    def _left(self) -> str:
        found = self.sessions()
        open_ones = [no for (_, no), one in found.items() if not one.settled_ms]
        missing = {one.session_no for one in self.sender.tracked} - {no for _, no in found} - self._excused()
        waiting = {
            name: queue.waiting
            for name in self._active()
            if (queue := self.reader.queue(name)).waiting and not queue.parked
        }
        if not open_ones and not missing and not waiting:
            return ""
        lengths = {name: len(group) for name, group in waiting.items()}
        return f"{len(open_ones)} sessions not settled, {len(missing)} not stored, waiting: {lengths}"

    def _active(self) -> list[str]:
        return [one.id for one in self.subscribers() if one.removed_ms is None]

    def _all_faults(self) -> list[Fault]:
        return sorted([*self.faults, *self.crew.deaths], key=lambda fault: fault.at_ms)

    def _excused(self) -> set[str]:
        """Sessions of the last moments before the store lost its last second."""
        crashes = [fault for fault in self._all_faults() if fault.kind is Kind.ROLLS_BACK]
        spans = [(fault.at_ms - 3000, fault.until_ms) for fault in crashes]
        spans += self.world.store.rolled_back
        return {
            one.session_no
            for one in self.sender.tracked
            if any(since <= one.acked_ms <= until for since, until in spans)
        }

    def subscribers(self) -> list[Subscriber]:
        found = []
        for one in self.operator.subscribers.values():
            secrets = self.operator.applications[one.id].secrets
            found.append(msgspec.structs.replace(one, secrets=secrets))
        if self.audience.by_session is not None:
            for name in self.reader.implicit():
                self.audience.by_session.subscription = name
                found.append(
                    Subscriber(
                        id=name,
                        account="default",
                        asked_ms=0,
                        added_ms=0,
                        implicit=True,
                        secrets=self.audience.by_session.secrets,
                    )
                )
        return found

    def records(self, not_drained: str) -> Records:
        """All that is known of the run."""
        subscribers = tuple(self.subscribers())
        posts = [post for application in self.receivers.applications for post in application.named_posts()]
        posts.sort(key=lambda post: post.decided_ms)
        accepted = [post.decided_ms for post in posts if post.accepted]
        return Records(
            answers=answers(self.world.provider_log),
            posts=tuple(posts),
            store=self.reader.read(),
            log_lines=self._log_lines(),
            tracked=tuple(self.sender.tracked),
            subscribers=subscribers,
            faults=tuple(recovered(fault, accepted) for fault in self._all_faults()),
            actions=tuple(self.operator.actions),
            journal=journal(self.world.read_journal()),
            ended=tuple(self.crew.ended),
            harms=tuple(harm for link in self.world.proxy.links.values() for harm in link.harms),
            passages=tuple(one for name in TO_RECEIVERS for one in self.world.proxy.links[name].passages),
            callback_timeout_ms=1000,
            give_up_ms=600_000,
            secrets_said=self._secrets_said(subscribers),
            refused_connections=tuple(self.receivers.refused),
            lags_ms=self._lags,
            kills=self.world.store.kills,
            rolled_back=tuple(self.world.store.rolled_back),
            not_drained=not_drained,
        )

    def _log_lines(self) -> dict[str, tuple[str, ...]]:
        """What processes wrote, and told others."""
        heard = {
            "web's answers": self.world.web_answers(),
            SENTRY: tuple(self.sentry.lines),
            EVENTS: tuple(self._events.lines),
        }
        return self.world.log_lines() | heard

    def _secrets_said(self, subscribers: tuple[Subscriber, ...]) -> tuple[str, ...]:
        own: list[Secret] = [secret for one in subscribers for secret in one.secrets]
        return (
            *(secret.value for secret in own),
            self.world.keys[1],
            self.world.secret_key,
            self.world.store.password,
            self.world.broker.password,
        )


def play(plan: Plan) -> Records:
    """Play a plan in a family of its own."""
    with Family("faults", handle_signals=False) as family:
        run = Run(plan, family)
        try:
            return run.play()
        finally:
            run.close()
