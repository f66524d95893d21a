"""What a session is without a phone, and what stands for one that is gone."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.erasure import Cleaned, is_in, tombstone, without_erased, without_phone, without_phone_in
from bridge.domain.receipts import Receipt
from bridge.domain.status import OPEN_SESSION_AGES_MS, Key, PhoneState, SessionState, is_complete, track, transition
from bridge.domain.tracking import SessionRequest

HERS, HIS = "(86)18500000001", "(86)18500000002"
DIGITS = "8618500000001"


def phone(number: str, status: int = 2, *, expected: bool = False) -> PhoneState:
    return PhoneState(number, "", status, 1, 1, 1, expected)


def session(*phones: PhoneState, **fields: object) -> SessionState:
    return msgspec.structs.replace(SessionState(sent_ms=1, tracked_ms=1, phones=phones), **fields)


def test_a_session_without_the_phone_is_left_alone() -> None:
    assert without_phone(session(phone(HIS), awaiting=((HIS, None),)), DIGITS) is None


def test_the_phone_goes_in_every_spelling_seen_or_awaited() -> None:
    before = session(
        phone("18500000001"),
        phone(HIS),
        phone("0086 18500000001"),
        awaiting=((HERS, "u"), (HIS, None)),
        expected_count=5,
    )
    after = without_phone(before, DIGITS)
    assert after == session(phone(HIS), awaiting=((HIS, None),), expected_count=4)


HERE, THERE, OTHER = (DIGITS, "u"), (DIGITS, "v"), ("8618500000003", "u")
"""Phones that were erased, as an answer has them."""


@given(st.lists(st.sets(st.sampled_from([HERE, THERE, OTHER])), max_size=4), st.integers(0, 5))
def test_each_phone_that_was_erased_before_it_was_heard_of_counts_once(answers: list[set[Key]], count: int) -> None:
    """Of a session that expects a number of phones nobody knows whose they are, until an answer has them."""
    after = session(expected_count=count)
    for heard in answers:
        after = without_erased(after, heard)
    most = max(map(len, answers), default=0)
    assert (after.expected_count, after.erased_count) == (max(0, count - most), most)


def test_one_that_was_known_when_it_was_erased_does_not_count_again() -> None:
    erased = without_phone(session(phone(HERS, 1), phone(HIS, 1), expected_count=3), DIGITS)
    assert erased is not None
    assert (erased.expected_count, erased.erased_count) == (2, 1)
    assert without_erased(erased, {HERE}) == erased
    assert without_erased(erased, {HERE, OTHER}).expected_count == 1


def test_one_that_is_listed_after_it_was_erased_is_not_waited_for() -> None:
    listed = session(awaiting=((HERS, None), (HIS, None)), expected_count=2)
    after = without_erased(listed, {HERE})
    assert after == session(awaiting=((HIS, None),), expected_count=1)
    assert without_erased(after, {HERE, OTHER}) == after


def test_what_was_counted_out_stays_so() -> None:
    before = without_erased(session(expected_count=2), {HERE})
    for receipts in ((), (Receipt(HIS, "u", "Success", "DELIVRD", "", 7, 1),)):
        after = transition(before, receipts, 10, 10**9).state
        assert (after.expected_count, after.erased_count) == (1, 1)


def test_a_later_word_of_the_sender_counts_whole() -> None:
    after = track(session(expected_count=1, erased_count=1), SessionRequest("s", phone_count=2), 5)
    assert (after.expected_count, after.erased_count) == (2, 0)
    assert without_erased(after, {HERE}).expected_count == 1


def test_a_session_without_an_expectation_whose_phones_are_all_erased_ends_as_others_do() -> None:
    after = without_erased(session(), {HERE})
    assert (after.expected_count, after.erased_count) == (None, 1)
    assert not is_complete(after, 10)
    assert is_complete(after, 1 + OPEN_SESSION_AGES_MS[-1])
    assert not is_complete(session(), 1 + OPEN_SESSION_AGES_MS[-1])


def test_a_session_waits_for_nobody_who_was_erased() -> None:
    listed = session(phone(HIS, expected=True), awaiting=((HERS, None),), expected_count=2)
    counted = session(phone(HIS), phone(HERS, 1), expected_count=2)
    alone = session(awaiting=((HERS, None),), expected_count=1)
    for before in (listed, counted, alone):
        after = without_phone(before, DIGITS)
        assert after is not None
        assert is_complete(after, 10)


def test_a_tombstone_is_the_phones_in_any_spelling_and_the_keys() -> None:
    assert tombstone(b"k", HERS) == tombstone(b"k", "18500000001")
    assert len({tombstone(b"k", HERS), tombstone(b"l", HERS), tombstone(b"k", HIS)}) == 3
    assert b"185" not in tombstone(b"k", HERS)


def test_a_tombstone_stays_the_same_for_ever() -> None:
    """It is what stands in the store: under another one after an upgrade, an erased phone would be heard again."""
    assert tombstone(b"k" * 32, HERS).hex() == "58d343ad54a89373ba4ceee9a1b02f5a"


# --- metadata


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"to":"18500000001","order":7}', '{"to":"***","order":7}'),
        ('{"to":"(86)18500000001"}', '{"to":"***"}'),
        ('{"to":"+86 185-0000-0001"}', '{"to":"***"}'),
        ('{"to":"0086 185 0000 0001"}', '{"to":"***"}'),
        ('{"note":"ring 185 0000 0001 at 10, 2026-11-23"}', '{"note":"ring *** at 10, 2026-11-23"}'),
        ('{"ref":"ORD-8618500000001-77"}', '{"ref":"ORD-***-77"}'),
        ('{"to":18500000001,"n":1}', '{"to":null,"n":1}'),
        ('{"to":8618500000001}', '{"to":null}'),
        ('{"to":18500000001.0}', '{"to":null}'),
        ('{"18500000001":{"name":"x"},"b":[1,["18500000001"]]}', '{"b":[1,["***"]]}'),
        ('{"all":[18500000001,18500000002]}', '{"all":[null,18500000002]}'),
        ('{"to":"18500000001","price":2.0,"name":"张"}', '{"to":"***","price":2.0,"name":"张"}'),
    ],
)
def test_a_phone_in_metadata_goes_and_the_rest_stays(before: str, after: str) -> None:
    assert without_phone_in(before, DIGITS) == Cleaned(after)


@pytest.mark.parametrize("metadata", ["", "{}", '{"to":"18500000002"}', '{"id":"1850000","n":1,"f":1.5,"b":true}'])
def test_metadata_without_it_is_left_as_it_was(metadata: str) -> None:
    assert without_phone_in(metadata, DIGITS) == Cleaned(metadata)


@pytest.mark.parametrize(
    "metadata", ['{"id":"9918500000001"}', '{"id":185000000012}', '{ "id" : "118500000001 张", "n" : 1 }']
)
def test_within_a_longer_number_nobody_can_tell(metadata: str) -> None:
    assert without_phone_in(metadata, DIGITS) == Cleaned(metadata, doubtful=True)


def test_what_can_be_told_goes_and_what_cannot_is_said() -> None:
    metadata = '{"to":"18500000001","id":"9918500000001","big":123456789012345678901234567890}'
    cleaned = Cleaned('{"to":"***","id":"9918500000001","big":123456789012345678901234567890}', doubtful=True)
    assert without_phone_in(metadata, DIGITS) == cleaned


@pytest.mark.parametrize("metadata", ['{"to":"18500000001"', "[" * 100_000 + '"18500000001"' + "]" * 100_000])
def test_what_cannot_be_read_stays_and_is_said_to_be_doubtful(metadata: str) -> None:
    assert without_phone_in(metadata, DIGITS) == Cleaned(metadata, doubtful=True)


def test_only_a_chinese_number_is_known_without_its_country() -> None:
    """What another country's number ends with is somebody else's in China."""
    metadata = '{"a":"+4915112345678","b":"15112345678","c":"86123456789","d":"123456789"}'
    for digits, name in (("4915112345678", "a"), ("86123456789", "c")):
        cleaned = without_phone_in(metadata, digits)
        assert json.loads(cleaned.metadata) == json.loads(metadata) | {name: "***"}
        assert not cleaned.doubtful


def test_the_shortest_number_that_is_looked_for_has_seven_digits() -> None:
    assert without_phone_in('{"to":"1234567"}', "1234567") == Cleaned('{"to":"***"}')
    assert without_phone_in('{"to":"123456"}', "123456") == Cleaned('{"to":"123456"}')


@pytest.mark.parametrize("phone", ["QbPtKJPa", "(((((((("])
def test_a_phone_that_is_no_number_is_not_looked_for(phone: str) -> None:
    metadata = json.dumps({"to": phone})
    assert not is_in(metadata, phone)
    assert without_phone_in(metadata, phone) == Cleaned(metadata)


def test_another_country_s_phone_is_found_too_and_a_short_number_is_not_looked_for() -> None:
    assert without_phone_in('{"to":"+44 7700 900123","a":"(44)7700900123"}', "447700900123").metadata == (
        '{"to":"***","a":"***"}'
    )
    assert without_phone_in('{"order":"10086"}', "10086") == Cleaned('{"order":"10086"}')


_json = st.recursive(
    st.none() | st.booleans() | st.integers(0, 10**15) | st.text(max_size=20) | st.sampled_from(["18500000001", HERS]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=12), children, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=12), _json, max_size=4))
def test_metadata_stays_json_and_after_it_nothing_is_left_but_what_is_said(value: dict[str, object]) -> None:
    metadata = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    cleaned = without_phone_in(metadata, DIGITS)
    assert isinstance(json.loads(cleaned.metadata), dict)
    assert without_phone_in(cleaned.metadata, DIGITS) == cleaned
    assert cleaned.doubtful == is_in(cleaned.metadata, DIGITS)


def test_a_session_whose_metadata_names_the_phone_is_rewritten_though_it_has_none_of_it() -> None:
    before = session(phone(HIS), metadata='{"cc":"18500000001"}')
    assert without_phone(before, DIGITS) == session(phone(HIS), metadata='{"cc":"***"}')
    both = without_phone(session(phone(HERS), metadata='{"cc":"18500000001"}'), DIGITS)
    assert both == session(metadata='{"cc":"***"}', erased_count=1)
