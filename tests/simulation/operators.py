"""What operators and upkeep do meanwhile: each a few scripts, and each may be stopped between any two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from bridge.domain.deliveries import parts_of
from bridge.domain.erasure import tombstone
from bridge.domain.receipts import normalise_phone
from bridge.domain.subscriptions import Deliver, Subscription, SubscriptionState
from bridge.store.pushes import HINT_GAP_MS
from bridge.store.resending import Again
from tests.simulation.world import HOUR, MINUTE, PHONES, SECOND

if TYPE_CHECKING:
    from tests.simulation.run import Run

KEEP_EVENTS_MS = 96 * HOUR
_STRANGER = b"operator"


class Operators:
    """Plans what is done, and does it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.is_dead = False
        chance = run.chance
        for at_ms in range(run.server.now_ms + HOUR, run.end_ms, 3 * HOUR):
            run.at(at_ms + chance.randrange(MINUTE), self, self.trim)
        for at_ms in range(run.server.now_ms + 10 * MINUTE, run.end_ms, HOUR):
            run.at(at_ms, self, self.look)
        deeds = (
            self.pause,
            self.resend,
            self.push,
            self.push,
            self.edit,
            self.poll_now,
            self.cut,
            self.resume_disabled,
        )
        for _ in range(24):
            run.at(chance.randrange(run.server.now_ms, run.busy_until_ms), self, chance.choice(deeds))
        for deed in (self.erase, self.forget):
            if chance.random() < 0.7:
                run.at(chance.randrange(run.server.now_ms, run.busy_until_ms), self, deed)
        run.at(run.busy_until_ms + SECOND, self, self.resume_disabled)
        run.at(run.busy_until_ms + HOUR, self, self.resume_disabled)

    def die(self) -> None:
        """The next one goes on."""

    def _one(self) -> Subscription:
        return self._run.chance.choice(list(self._run.store.registries.subscriptions.values()))

    def _names(self, account: str) -> list[str]:
        return [one.id for one in self._run.store.registries.subscriptions.values() if one.account == account]

    # upkeep

    def look(self) -> None:
        """Tell of who is overdue."""
        while self._run.overdue.look() is not None:
            pass

    def trim(self) -> None:
        """``bridge.trim``: each three hours here, to save time."""
        run, upkeep = self._run, self._run.store.upkeep
        now_ms = run.server.now_ms
        run.store.sessions.expire(now_ms, 500)
        for account in ("default", "shop"):
            names = self._names(account)
            upkeep.trim(account, names, now_ms - KEEP_EVENTS_MS)
            upkeep.limit_kept(names)
            upkeep.limit_dead(names)
            upkeep.share_backlog(names)
        for one in list(run.store.registries.subscriptions.values()):
            if one.releasing:
                self._finish_release(one.id)
            elif not one.is_active:
                run.store.queues.park(one.id, run.store.registries.versions)

    # deeds

    def pause(self) -> None:
        """Stop one, and let it go on some hours later."""
        run, one = self._run, self._one()
        run.note("pause", one.id)
        run.after(
            run.chance.randrange(MINUTE, run.chance.choice([HOUR, 30 * HOUR, 150 * HOUR])),
            self,
            lambda: self.resume(one.id),
        )
        if one.is_active:
            run.store.registries.change(one.id, lambda old: replace(old, state=SubscriptionState.PAUSED))
            run.store.queues.park(one.id, run.store.registries.versions)

    def resume_disabled(self) -> None:
        """Whatever stands still, for whatever reason, goes on."""
        for one in list(self._run.store.registries.subscriptions.values()):
            if not one.is_active:
                self.resume(one.id)

    def resume(self, name: str) -> None:
        """Let one go on: what is under way is waited for."""
        run = self._run
        one = run.store.registries.subscriptions[name]
        if one.is_active:
            return
        run.store.queues.park(name, run.store.registries.versions)
        deliver = run.chance.choice([Deliver.ALL, Deliver.ALL, Deliver.ALL, Deliver.LATEST, Deliver.NONE])
        homes = [(name, part.home(run.shards)) for part in parts_of(name, one.partitions, run.shards)]
        waits = any(run.store.queues.held(homes))
        run.after(run.delivery.hold_ms + SECOND if waits else 1, self, lambda: self._release(name, deliver))

    def _release(self, name: str, deliver: Deliver) -> None:
        run = self._run
        if run.store.registries.subscriptions[name].is_active:
            return
        run.note("resume", name, deliver.value)
        if deliver is not Deliver.ALL:
            run.store.queues.start_anew(name, deliver)
        run.store.registries.change(
            name, lambda old: replace(old, state=SubscriptionState.ACTIVE, reason="", releasing=True)
        )
        self._finish_release(name)

    def _finish_release(self, name: str) -> None:
        store = self._run.store
        store.queues.start_anew(name, Deliver.ALL)
        store.queues.unpark(name)
        store.registries.change(name, lambda old: replace(old, releasing=False))

    def edit(self) -> None:
        """Other statuses, or none but those."""
        run, one = self._run, self._one()
        statuses = run.chance.choice([(), ("delivered",), ("undelivered", "expired", "failed", "no_receipt")])
        run.note("edit", one.id, statuses)
        run.store.registries.change(one.id, lambda old: replace(old, statuses=statuses))

    def cut(self) -> None:
        """Other parts."""
        run, one = self._run, self._one()
        if run.store.registries.change(one.id, lambda old: replace(old, partitions=None if old.partitions else 2)):
            run.note("cut", one.id)
            run.store.queues.forget_health(one.id, _STRANGER)

    def resend(self) -> None:
        """Dead letters once more, or what was sent long ago."""
        run, one = self._run, self._one()
        chosen = []
        for shard, queue in enumerate(run.store.queues.of(one.id)):
            chosen += [Again(shard, dead.position, dead.record, ("all",)) for dead in queue.dead]
            log = run.store.sessions.shards[shard].log.get(one.account, {})
            for position in run.chance.sample(sorted(log), min(2, len(log))):
                chosen.append(Again(shard, position, log[position].record))
        run.evidence.resent |= {(one.id, (again.shard, again.position)) for again in chosen}
        run.note("resend", one.id, len(chosen))
        run.store.queues.resend(one.id, chosen)

    def push(self) -> None:
        """The provider says that there is news."""
        run = self._run
        named = [f"s{run.chance.randrange(1, run.sessions + 2):04}" for _ in range(3)]
        for account in ("default", "shop"):
            run.store.sessions.hint(account, named, HINT_GAP_MS)

    def poll_now(self) -> None:
        """An operator asks for some sessions at once."""
        run = self._run
        run.store.sessions.poll_now("default", [f"s{run.chance.randrange(1, run.sessions + 2):04}" for _ in range(2)])

    def forget(self) -> None:
        """Forget a session; its sender tells of it again."""
        run = self._run
        name = f"s{run.chance.randrange(1, run.sessions + 2):04}"
        run.evidence.forgotten[name].append(run.server.now_ms)
        for account in ("default", "shop"):
            run.store.sessions.forget(account, [name])

    def erase(self) -> None:
        """Erase a phone."""
        run = self._run
        phone = run.chance.choice(PHONES)
        run.evidence.erased.setdefault(normalise_phone(phone), run.server.now_ms)
        one = Erasing(run, phone, {account: self._names(account) for account in ("default", "shop")})
        run.after(1, one, one.erase)


class Erasing:
    """A phone that is being erased: who is told that it failed does it again."""

    def __init__(self, run: Run, phone: str, audiences: Mapping[str, Sequence[str]]) -> None:
        self._run = run
        self._phone = phone
        self._audiences = audiences
        self.is_dead = False

    def erase(self) -> None:
        """Its tombstone first."""
        run = self._run
        run.store.registries.erased[tombstone(bytes(32), self._phone)] = run.server.now_ms
        run.store.registries.bump()
        run.note("erase", self._phone)
        for account, names in self._audiences.items():
            run.store.upkeep.erase(self._phone, account, names)

    def die(self) -> None:
        """Once more."""
        self._run.after(MINUTE, self, self.erase)
