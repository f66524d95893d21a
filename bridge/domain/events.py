"""Events: a change as it is recorded, its id, and the JSON a subscriber gets.

A record is written once and rendered each time it is sent; rendering is a function of the record alone, so that
every attempt sends the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from bridge.domain.receipts import Status, normalise_phone
from bridge.domain.status import Change, SessionState

SCHEMA = 2
STATUS_CHANGED = "sms.status.changed"
TEST = "bridge.test"
COMPLETED, OVERDUE = 2, 3
DISABLED, EXHAUSTED, DROPPED = 4, 5, 6
EVENT_TYPES = {
    0: STATUS_CHANGED,
    1: TEST,
    COMPLETED: "sms.session.completed",
    OVERDUE: "sms.session.overdue",
    DISABLED: "bridge.subscription.disabled",
    EXHAUSTED: "bridge.delivery.exhausted",
    DROPPED: "bridge.backlog.dropped",
}
"""By the number that a record holds: never use one again for another."""
STATUSES = tuple(status.text for status in Status)


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An event as the log keeps it, packed as a MessagePack array that starts with its schema number.

    Times ending in ``_ms`` are Unix milliseconds, ``receipt_time`` Unix seconds; ``result`` is None where the status
    is our own deadline's. The account is the log's, not the record's.

    ``type`` is a number of ``EVENT_TYPES``; records of schema 1 lack it, and are changes of status. An event of the
    bridge's own has a ``session_no`` that no session can have, and its data in ``metadata``. What is told of a session
    as a whole has no phone, its data in ``metadata`` too, and in ``user_id`` what tells it from the session's others.
    """

    schema: int
    session_no: str
    phone: str
    user_id: str
    status: int
    previous: int
    sequence: int
    corrected: bool
    late: bool
    result: str | None
    code: str
    description: str
    receipt_time: int
    segments: int
    observed_ms: int
    previous_poll_ms: int
    metadata: str
    type: int = 0


class _ReceiptOut(msgspec.Struct, frozen=True, gc=False):
    result: str
    code: str
    description: str
    time: str | None


class _DataOut(msgspec.Struct, frozen=True, gc=False):
    account: str
    session_no: str
    phone: str
    user_id: str
    status: str
    previous_status: str
    final: bool
    sequence: int
    receipt: _ReceiptOut | None
    segments: int | None
    previous_poll_at: str | None
    corrected: bool
    late: bool
    metadata: msgspec.Raw


class _EventOut(msgspec.Struct, frozen=True, gc=False):
    id: str
    type: str
    timestamp: str
    data: _DataOut | msgspec.Raw


_encoder = msgspec.json.Encoder()
_packer = msgspec.msgpack.Encoder()
_unpacker = msgspec.msgpack.Decoder(Record)
_NO_METADATA = msgspec.Raw(b"{}")
_FIVE_BITS = bytes(b"abcdefghijklmnopqrstuvwxyz234567"[byte % 32] for byte in range(256))
_ID_CHARS = 26
_LATEST_S = 253_402_300_799
"""The last second of the year 9999: no later one can be written as a date."""


def record(session_no: str, state: SessionState, change: Change, now_ms: int) -> Record:
    """The record of a change observed at ``now_ms``; ``state`` is the session's before the answer."""
    receipt = change.receipt
    return Record(
        SCHEMA,
        session_no,
        change.phone,
        change.user_id,
        int(change.status),
        int(change.previous),
        change.sequence,
        change.corrected,
        change.late,
        receipt.result if receipt else None,
        receipt.code if receipt else "",
        receipt.description if receipt else "",
        receipt.time if receipt else 0,
        receipt.segments if receipt else 0,
        now_ms,
        state.polled_ms,
        state.metadata,
    )


def pack(event: Record) -> bytes:
    """The bytes that the log keeps."""
    return _packer.encode(event)


def unpack(data: bytes) -> Record:
    """The record in ``data``.

    Raises:
        msgspec.MsgspecError: it is none, or one of a newer release's.
    """
    try:
        event = _unpacker.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:
        # msgspec's own errors are for what is malformed in its sense; a broken text is the standard library's.
        raise msgspec.ValidationError(f"not a record: {type(error).__name__}") from None
    if event.schema > SCHEMA:
        raise msgspec.ValidationError(f"a record of schema {event.schema}: this release reads up to {SCHEMA}")
    return event


def readable(data: bytes | None) -> Record | None:
    """The record in ``data``; None where there is none that can be read: among many, it is to cost itself alone."""
    try:
        return unpack(data) if data else None
    except msgspec.MsgspecError:
        return None


def record_of_test(account: str, subscription: str, nonce: str, now_ms: int) -> Record:
    """The record of a test for one subscription; ``nonce`` tells it from the others."""
    return record_of_ours(1, nonce, {"account": account, "subscription": subscription}, now_ms)


def record_of_ours(kind: int, name: str, data: Mapping[str, object], now_ms: int) -> Record:
    """The record of an event of the bridge's own; those of a kind with the same ``name`` are sent in order."""
    # A SessionNo holds no space: the lane, and the id, are no session's.
    session_no = f"{EVENT_TYPES[kind]} {name}"
    text = _encoder.encode(data).decode()
    return Record(SCHEMA, session_no, "", "", 0, 0, 1, False, False, None, "", "", 0, 0, now_ms, 0, text, kind)


def is_ours(event: Record) -> bool:
    """Whether an event tells of the bridge itself, and not of an SMS."""
    return EVENT_TYPES.get(event.type, "").startswith("bridge.")


def record_of_session(kind: int, session_no: str, tells_apart: str, data: str, times_ms: tuple[int, int]) -> Record:
    """The record of what is told of a session as a whole; ``times_ms`` are its last poll and the observation."""
    polled_ms, now_ms = times_ms
    return Record(
        SCHEMA, session_no, "", tells_apart, 0, 0, 1, False, False, None, "", "", 0, 0, now_ms, polled_ms, data, kind
    )


def event_id(account: str, event: Record) -> str:
    """``evt_`` and 26 base32 characters, each of them five bits of one byte of a SHA-256 (130 bits in all).

    Of what the change is: account, session, normalised phone, user id, status and, for a final word of the
    provider's, its ReceiptTime. Not of when or as which one we saw it, so that the same change seen again after a
    store lost its last second, or after a session was forgotten, has the same id. Of what is neither a change of
    status nor a test it is a hash of its type and data too.
    """
    session_no, phone, user_id = event.session_no, normalise_phone(event.phone), event.user_id
    status = STATUSES[event.status]
    final = event.result is not None and event.status >= Status.DELIVERED
    time = str(event.receipt_time) if final else ""
    # Lengths first: no two different tuples may run together into the same text.
    text = (
        f"{len(account)}:{account}{len(session_no)}:{session_no}{len(phone)}:{phone}"
        f"{len(user_id)}:{user_id}{len(status)}:{status}{len(time)}:{time}"
    )
    if event.type > 1:
        name = EVENT_TYPES[event.type]
        text += f"{len(name)}:{name}{len(event.metadata)}:{event.metadata}"
    return "evt_" + base32(hashlib.sha256(text.encode()).digest())


def base32(digest: bytes) -> str:
    """26 base32 characters, each of them five bits of one byte of ``digest``.

    Not base64.b32encode, which is Python and takes longer than hashing: this is one table look-up in C.
    """
    return digest[:_ID_CHARS].translate(_FIVE_BITS).decode()


def lane_id(session_no: str, phone: str) -> bytes:
    """Eight bytes that stand for one phone's line in one session.

    Two phones that share them (1 in 2⁶⁴) would only wait for one another.
    """
    text = f"{session_no}\0{normalise_phone(phone)}"
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def resend_lane(position: bytes) -> bytes:
    """The lane of an event that is sent again: its own, so that no event of its phone waits for it."""
    return hashlib.blake2b(position, digest_size=8, person=b"resend").digest()


def phone_tag(phone: str) -> bytes:
    """Eight bytes by which what was noted of a phone's deliveries is found again, without noting the phone."""
    return hashlib.blake2b(normalise_phone(phone).encode(), digest_size=8, person=b"attempt").digest()


def render(account: str, event: Record, phone: str | None = None) -> tuple[str, bytes]:
    """An event's id and its JSON, as a callback's body; ``phone`` is written in place of its own where given."""
    message_id = event_id(account, event)
    if event.type:
        data = msgspec.Raw(event.metadata.encode())
        other = _EventOut(message_id, EVENT_TYPES[event.type], iso_millis(event.observed_ms), data)
        return message_id, _encoder.encode(other)
    receipt = None
    if event.result is not None:
        time = iso_seconds(event.receipt_time) if 0 < event.receipt_time <= _LATEST_S else None
        receipt = _ReceiptOut(event.result, event.code, event.description, time)
    body = _EventOut(
        message_id,
        STATUS_CHANGED,
        iso_millis(event.observed_ms),
        _DataOut(
            account,
            event.session_no,
            event.phone if phone is None else phone,
            event.user_id,
            STATUSES[event.status],
            STATUSES[event.previous],
            event.status >= Status.DELIVERED,
            event.sequence,
            receipt,
            event.segments if receipt else None,
            iso_millis(event.previous_poll_ms) if event.previous_poll_ms else None,
            event.corrected,
            event.late,
            msgspec.Raw(event.metadata.encode()) if event.metadata else _NO_METADATA,
        ),
    )
    return message_id, _encoder.encode(body)


@lru_cache(maxsize=4096)
def iso_millis(unix_ms: int) -> str:
    """``2026-11-23T06:31:08.123Z``."""
    seconds, millis = divmod(unix_ms, 1000)
    return f"{_iso_prefix(seconds)}.{millis:03d}Z"


def iso_seconds(unix_s: int) -> str:
    """``2026-11-23T06:31:02Z``."""
    return _iso_prefix(unix_s) + "Z"


@lru_cache(maxsize=4096)
def _iso_prefix(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat()[:19]
