from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bridge.observe.scrub import scrub, scrub_text

phones = st.from_regex(r"(\(86\)|\(0086\)|0086|86|\+86 ?|\(60\)|)1[3-9][0-9]{9}", fullmatch=True)
# What may stand beside a phone in a line of text; a longer word of letters a-f and digits could be a hash.
around = st.text(st.characters(codec="utf-8", exclude_categories=("Nd", "Cs")), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | phones,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("to (86)18500001234.", "to ***1234."),
        ("(0086)18500001234", "***1234"),
        ("+86 185-0000-1234", "***1234"),
        ("(86)18500001234 (18) then", "***1234 (18) then"),
        ("+8618500001234 18500005678", "***1234 ***5678"),
        ("185 0000 1234", "***1234"),
        ("+1 (415) 555-2671", "***2671"),
        ("415-555-2671", "***2671"),
        ("phone18500001234x", "phone***1234x"),
        (r"a\n18500001234", r"a\n***1234"),
        ("%2B8618500001234", "%2B***1234"),
        ("redis://:p%40ss@h:6379/0", "redis://***@h:6379/0"),
        ("amqp://user:p@ss@h//", "amqp://***@h//"),
        ("redis://:p/ss@h", "redis://***@h"),
        ("https://key@sentry.example/1", "https://***@sentry.example/1"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_***"),
        ("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", "v1,***"),
        ("Bearer abc.def-ghi", "Bearer ***"),
        ("Authorization: Bearer abc", "Authorization: ***"),
        ("Action=x&PublicKey=abc&Signature=def", "Action=x&PublicKey=***&Signature=***"),
        ("{'PrivateKey': 'a b c', 'x': 1}", "{'PrivateKey': '***', 'x': 1}"),
        ('{"secret":"abc","x":1}', '{"secret":"***","x":1}'),
        ("BRIDGE_SECRET_KEYS=abc", "BRIDGE_SECRET_KEYS=***"),
    ],
)
def test_phones_and_secrets_are_masked(text: str, scrubbed: str) -> None:
    assert scrub_text(text) == scrubbed


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23T06:31:08.123Z, 2026-11-23 14:31:08,123456+08:00, 2026-11-23",
        "12345678-1234-4234-9234-123456789012",
        "evt_1234567890abcdefghij",
        "46f09bb9fab4f12dfc160dae12273d5332b5debe",
        "due 1795423107000, took 0.123456789 s, 1000 of 123456",
        "10.0.0.1:6379, 8080 9090, [::1]",
        "session nAQDODtO of account default",
        "the signature does not match; a secret is missing",
        "https://example.com:8443/sms?a=b",
    ],
)
def test_what_is_neither_stays_readable(text: str) -> None:
    assert scrub_text(text) == text


@given(around, phones, around)
def test_no_phone_survives_in_a_text(before: str, phone: str, after: str) -> None:
    assert phone[-9:] not in scrub_text(f"{before} {phone} {after}")
    assert phone[-9:] not in scrub_text(repr(f"{before}\n{phone}\t{after}"))
    assert phone[-9:] not in scrub_text(json.dumps({before: [phone, after]}))


@given(st.text())
def test_scrubbing_again_changes_nothing(text: str) -> None:
    once = scrub_text(text)
    assert scrub_text(once) == once


@given(json_values, phones)
def test_no_phone_survives_at_any_depth(value: object, phone: str) -> None:
    digits = phone[-11:]
    assume(digits[2:] not in json.dumps(value))  # as a number that is no phone may have them: 1953125000000000
    nested = {"a": [value, {"deep": (phone, {"x": f"for {phone}"})}], phone: 1, "args": [int(digits)]}
    assert digits[2:] not in json.dumps(scrub(nested))


@given(json_values)
def test_any_json_value_becomes_one_of_the_same_shape(value: object) -> None:
    scrubbed = scrub(value)
    json.dumps(scrubbed)
    assert isinstance(scrubbed, type(value)) or isinstance(value, int)


@pytest.mark.parametrize(
    "name",
    ["PrivateKey", "PublicKey", "Signature", "secret", "webhook-signature", "authorization", "api_key", "secret_keys"],
)
def test_a_secret_is_known_by_its_name(name: str) -> None:
    assert scrub({name: "abc", "x": {name: ["abc", 1]}}) == {name: "***", "x": {name: "***"}}


def test_a_phone_is_known_by_its_name_whatever_it_looks_like() -> None:
    assert scrub({"phone": "QbPtKJPa", "phones": ["95588", "18500001234"], "Phone": 95588}) == {
        "phone": "***",
        "phones": ["***", "***1234"],
        "Phone": "***",
    }


def test_session_numbers_and_ids_stay() -> None:
    line = {"session_no": "1234567890", "sessions": ["1234567890"], "trace_id": "1" * 32, "span_id": "1" * 16}
    assert scrub(line) == line


def test_figures_and_times_stay() -> None:
    line = {
        "due_ms": 1795423107000,
        "memory_bytes": 17179869184,
        "took": 0.25,
        "ok": True,
        "none": None,
        "when": datetime(2026, 11, 23, tzinfo=UTC),
    }
    assert scrub(line) == line


def test_a_phone_given_as_a_number_is_masked() -> None:
    assert scrub([[18500001234, 8618500001234]]) == [["***1234", "***1234"]]


def test_other_objects_are_shown_scrubbed_even_with_a_broken_repr() -> None:
    class Told:
        def __repr__(self) -> str:
            return "Told('18500001234')"

    class Broken:
        def __repr__(self) -> str:
            raise ValueError("18500001234")

    assert scrub([Told(), Broken(), b"18500001234"]) == ["Told('***1234')", "<Broken>", "***1234"]


def test_a_cycle_ends() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    assert "…" in str(scrub(cycle))


@pytest.mark.parametrize("part", ["1", "(1", "a", "a.", "+1 ", "token", "a://", "a:", "1-", "x@", "0a", "whsec_"])
def test_long_hostile_text_takes_no_longer_than_its_length_deserves(part: str) -> None:
    started_s = time.process_time()
    scrub_text(part * (50_000 // len(part)))
    assert time.process_time() - started_s < 2
