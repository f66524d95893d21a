"""Mistakes to make inside a worker, one for each invariant at least: a checker that never failed proves nothing.

Each is applied to a module of the bridge once it is loaded, and before others take names from it. One that finds
nothing to change raises, and the worker does not start: it must be adapted, not forgotten.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

Note = Callable[[str], None]
Bug = Callable[[Any, random.Random, Note], None]


def forgets_to_poll(module: Any, chance: random.Random, note: Note) -> None:
    """A session that is not settled gets no next poll."""
    right = module.next_poll_ms

    def wrong(state: Any, *args: Any, **options: Any) -> Any:
        if not state.settled_ms and chance.random() < 0.3:
            note("bug forgets_to_poll")
            return None
        return right(state, *args, **options)

    module.next_poll_ms = wrong


def forgets_an_audience(module: Any, chance: random.Random, note: Note) -> None:
    """A change is recorded, and queued for nobody."""
    right = module.Registry.audience

    def wrong(self: Any, *args: Any) -> Any:
        found = right(self, *args)
        if found and chance.random() < 0.2:
            note("bug forgets_an_audience")
            return ()
        return found

    module.Registry.audience = wrong


def takes_failures_for_answers(module: Any, chance: random.Random, note: Note) -> None:
    """A refusal is written down as accepted."""
    from bridge.domain.outcome import Verdict

    right = module.QueueStore.settling

    def wrong(self: Any, token: Any, settled: Any) -> Any:
        told = {}
        for place, group in settled.items():
            told[place] = [believed(one) for one in group]
        return right(self, token, told)

    def believed(one: Any) -> Any:
        if one.verdict is not Verdict.RETRY or chance.random() < 0.5:
            return one
        note("bug takes_failures_for_answers")
        return msgspec.structs.replace(one, verdict=Verdict.ACCEPTED, status=200)

    module.QueueStore.settling = wrong


def misreads_a_word(module: Any, chance: random.Random, note: Note) -> None:  # noqa: ARG001 - as all are called
    """A failure is told as a delivery."""
    right = module.classify

    def wrong(result: str, code: str) -> Any:
        status = right(result, code)
        if status is module.Status.UNDELIVERED:
            note("bug misreads_a_word")
            return module.Status.DELIVERED
        return status

    module.classify = wrong


def names_an_event_anew(module: Any, chance: random.Random, note: Note) -> None:
    """Of some attempts the id is another."""
    right = module.event_id

    def wrong(account: str, event: Any) -> Any:
        if chance.random() < 0.3:
            note("bug names_an_event_anew")
            return "evt_" + "".join(chance.choices("abcdefgh234567", k=26))
        return right(account, event)

    module.event_id = wrong


def writes_an_event_anew(module: Any, chance: random.Random, note: Note) -> None:
    """Of some attempts the bytes are others, under the same id."""
    right = module.iso_millis

    def wrong(unix_ms: int) -> Any:
        if chance.random() < 0.3:
            note("bug writes_an_event_anew")
            return right(unix_ms + 1)
        return right(unix_ms)

    module.iso_millis = wrong


def signs_other_bytes(module: Any, chance: random.Random, note: Note) -> None:
    """Some signatures are of another body."""
    right = module.Signer.sign

    def wrong(self: Any, message_id: str, timestamp_s: int, body: bytes) -> Any:
        if chance.random() < 0.3:
            note("bug signs_other_bytes")
            body += b" "
        return right(self, message_id, timestamp_s, body)

    module.Signer.sign = wrong


def loses_its_lane(module: Any, chance: random.Random, note: Note) -> None:
    """A phone's events do not wait for one another."""

    right = module.lane_id

    def wrong(session_no: str, phone: str) -> bytes:
        note("bug loses_its_lane")
        return chance.randbytes(len(right(session_no, phone)))

    module.lane_id = wrong


def serves_one_at_a_time(module: Any, chance: random.Random, note: Note) -> None:  # noqa: ARG001 - as all are called
    """Nothing is sent to a subscription while POSTs of another are under way; and no breaker ever opens."""
    right = module.Slice._serve

    def wrong(self: Any, queue: Any, *when: int) -> Any:
        others = [one for one in self._intake.queues.values() if one is not queue]
        if any(one.in_flight for one in others):
            note("bug serves_one_at_a_time")
            return 0
        return right(self, queue, *when)

    def never(*_: Any) -> bool:
        return False

    module.Slice._serve = wrong
    setattr(module.HeldQueue, module.HeldQueue.failed.__name__, never)


def talks_of_phones(module: Any, chance: random.Random, note: Note) -> None:  # noqa: ARG001 - as all are called
    """A log line holds a phone."""
    right = module.pack

    def wrong(event: Any) -> Any:
        note("bug talks_of_phones")
        sys.stderr.write(f"recorded a change of {event.phone}\n")
        return right(event)

    module.pack = wrong


def tells_sentry_of_phones(module: Any, chance: random.Random, note: Note) -> None:  # noqa: ARG001 - as all are called
    """Something is reported past the scrubber: as an envelope of another kind than an event."""
    from sentry_sdk import get_client
    from sentry_sdk.envelope import Envelope

    right = module.pack

    def wrong(event: Any) -> Any:
        transport = get_client().transport
        if transport is not None:
            note("bug tells_sentry_of_phones")
            envelope = Envelope()
            envelope.add_event({"message": f"recorded a change of {event.phone}"})
            transport.capture_envelope(envelope)
        return right(event)

    module.pack = wrong


def shows_arguments(module: Any, chance: random.Random, note: Note) -> None:  # noqa: ARG001 - as all are called
    """What a sender says of its arguments is left as it is, for Flower to show."""
    right = module.admit

    def wrong(headers: Any, *args: Any) -> Any:
        admitted = right(headers, *args)
        shown = headers.get("argsrepr") if isinstance(headers, dict) else None
        if not shown:
            return admitted
        note("bug shows_arguments")
        return msgspec.structs.replace(admitted, headers={**admitted.headers, "argsrepr": shown})

    module.admit = wrong


def shows_whole_phones(module: Any, chance: random.Random, note: Note) -> None:
    """Whoever asked for masked or hashed phones is sent some in full."""
    right = module.masked

    def wrong(phone: str) -> Any:
        if chance.random() < 0.3:
            note("bug shows_whole_phones")
            return phone
        return right(phone)

    module.masked = wrong


def forgets_completions(module: Any, chance: random.Random, note: Note) -> None:
    """That a session settled is told of some only."""
    right = module.completes

    def wrong(*args: Any) -> Any:
        found = right(*args)
        if found and chance.random() < 0.3:
            note("bug forgets_completions")
            return False
        return found

    module.completes = wrong


def ends_by_itself(module: Any, chance: random.Random, note: Note) -> None:
    """Some changes are more than the process can bear."""
    right = module.pack

    def wrong(event: Any) -> Any:
        if chance.random() < 0.05:
            note("bug ends_by_itself")
            sys.stderr.write("this is too much\n")
            os._exit(7)
        return right(event)

    module.pack = wrong


def calls_anybody(module: Any, chance: random.Random, note: Note) -> None:  # noqa: ARG001 - as all are called
    """No address is refused."""
    right = module.address_refusal

    def wrong(ip_text: str, policy: Any) -> None:
        if right(ip_text, policy):
            note("bug calls_anybody")

    module.address_refusal = wrong


def loses_outcomes(module: Any, chance: random.Random, note: Note) -> None:
    """Some accepted deliveries are not written down."""
    right = module.QueueStore.settling

    def wrong(self: Any, token: Any, settled: Any) -> Any:
        kept = {}
        for place, group in settled.items():
            kept[place] = [one for one in group if one.status == 0 or chance.random() > 0.3]
            if len(kept[place]) < len(group):
                note("bug loses_outcomes")
        return right(self, token, kept)

    module.QueueStore.settling = wrong


BUGS: Mapping[str, tuple[str, Bug]] = {
    "forgets_to_poll": ("bridge.domain.schedule", forgets_to_poll),
    "forgets_an_audience": ("bridge.store.subscriptions", forgets_an_audience),
    "takes_failures_for_answers": ("bridge.store.queues", takes_failures_for_answers),
    "misreads_a_word": ("bridge.domain.receipts", misreads_a_word),
    "names_an_event_anew": ("bridge.domain.events", names_an_event_anew),
    "writes_an_event_anew": ("bridge.domain.events", writes_an_event_anew),
    "signs_other_bytes": ("bridge.domain.signing", signs_other_bytes),
    "loses_its_lane": ("bridge.domain.events", loses_its_lane),
    "serves_one_at_a_time": ("bridge.delivery.loop", serves_one_at_a_time),
    "talks_of_phones": ("bridge.domain.events", talks_of_phones),
    "tells_sentry_of_phones": ("bridge.domain.events", tells_sentry_of_phones),
    "shows_arguments": ("tasks.intake", shows_arguments),
    "shows_whole_phones": ("bridge.domain.formats", shows_whole_phones),
    "forgets_completions": ("bridge.domain.session_events", forgets_completions),
    "ends_by_itself": ("bridge.domain.events", ends_by_itself),
    "calls_anybody": ("bridge.delivery.guard", calls_anybody),
    "loses_outcomes": ("bridge.store.queues", loses_outcomes),
}
"""Each mistake by its name, with the module that it is made in."""

BREAKS: Mapping[str, tuple[str, str]] = {
    "forgets_to_poll": ("I1", "is not settled"),
    "forgets_an_audience": ("I2", "wanted, and neither"),
    "takes_failures_for_answers": ("I2", "noted as accepted, but it never was"),
    "misreads_a_word": ("I3", "the provider had not said so"),
    "names_an_event_anew": ("I4", "its id was"),
    "writes_an_event_anew": ("I4", "other bytes than at first"),
    "signs_other_bytes": ("I5", "verifies with secrets []"),
    "loses_its_lane": ("I6", "before event"),
    "serves_one_at_a_time": ("I7", "beside receivers that hang"),
    "talks_of_phones": ("I8", "worker.log, line"),
    "tells_sentry_of_phones": ("I8", "sentry, line"),
    "shows_arguments": ("I8", "celery's events, line"),
    "shows_whole_phones": ("I8", "which was to be masked"),
    "forgets_completions": ("I2", "no sms.session.completed was recorded"),
    "ends_by_itself": ("no crash loop", "ended by itself"),
    "calls_anybody": ("I9", "a connection to"),
    "loses_outcomes": ("I10", "and nothing lost the outcome"),
}
"""The invariant that each mistake breaks, and how that is said."""
