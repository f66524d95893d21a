"""Secrets at rest: who can open them, and for whom."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import SecretsUnreadable, SettingsError
from bridge.store.secrets import SecretBox, parse_keys

OLD, NEW = bytes(32), bytes(range(32))
SECRET = b"s" * 32


@given(st.binary(max_size=64), st.text(max_size=30))
def test_what_was_sealed_opens_for_its_owner(secret: bytes, owner: str) -> None:
    box = SecretBox([NEW])
    assert box.open(box.seal(secret, owner), owner) == secret


def test_the_same_secret_is_never_sealed_alike() -> None:
    assert SecretBox([NEW]).seal(SECRET, "sub_a") != SecretBox([NEW]).seal(SECRET, "sub_a")


def test_the_first_key_writes_and_every_key_reads() -> None:
    written_before = SecretBox([OLD]).seal(SECRET, "sub_a")
    both = SecretBox([NEW, OLD])
    assert both.open(written_before, "sub_a") == SECRET
    assert SecretBox([NEW]).open(both.seal(SECRET, "sub_a"), "sub_a") == SECRET


@pytest.mark.parametrize("keys", [[NEW], [NEW, bytes([7]) * 32]])
def test_without_its_key_a_secret_stays_shut(keys: list[bytes]) -> None:
    with pytest.raises(SecretsUnreadable, match="BRIDGE_SECRET_KEYS opens the secret of sub_a"):
        SecretBox(keys).open(SecretBox([OLD]).seal(SECRET, "sub_a"), "sub_a")


def test_a_secret_moved_to_another_owner_does_not_open() -> None:
    box = SecretBox([NEW])
    with pytest.raises(SecretsUnreadable):
        box.open(box.seal(SECRET, "sub_a"), "sub_b")


@given(st.binary(max_size=80))
def test_damaged_bytes_are_unreadable_and_nothing_worse(sealed: bytes) -> None:
    with pytest.raises(SecretsUnreadable):
        SecretBox([NEW]).open(sealed, "sub_a")


def test_keys_are_read_as_a_list() -> None:
    text = f" {base64.b64encode(NEW).decode()} , {base64.b64encode(OLD).decode()},"
    assert parse_keys(text) == (NEW, OLD)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not set"),
        (" , ", "not set"),
        ("?" * 44, "key 1 is not base64"),
        (f"{base64.b64encode(NEW).decode()},é", "key 2 is not base64"),
        (base64.b64encode(b"short").decode(), "key 1 has 5 bytes, not 32"),
    ],
)
def test_a_wrong_key_is_named_by_its_place_and_never_shown(text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        parse_keys(text)
    assert not text.strip(" ,") or text not in str(caught.value)
