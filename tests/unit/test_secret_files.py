"""Secrets from files: whatever is in one, it is a key of 24 to 64 bytes or a refusal that does not show it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.cli.secret_files import parse_overlap_ms, read_file, read_secret
from bridge.domain.signing import encode_secret
from bridge.errors import UsageError

HOUR_MS = 3_600_000
on_one_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@on_one_file
@given(st.binary(max_size=90), st.sampled_from(["", "\n", " \r\n"]))
def test_a_key_comes_back_or_its_length_is_refused(tmp_path: Path, key: bytes, end: str) -> None:
    path = tmp_path / "secret"
    path.write_text(encode_secret(key) + end)
    if 24 <= len(key) <= 64:
        assert read_secret(str(path)) == key
    else:
        with pytest.raises(UsageError, match=f"24 to 64 bytes, not {len(key)}"):
            read_secret(str(path))


@on_one_file
@given(st.binary(max_size=200) | st.text(max_size=80).map(lambda text: f"whsec_{text}".encode()))
def test_any_other_content_is_refused_as_what_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    complaint = "--secret-file: "
    try:
        assert 24 <= len(read_secret(str(path))) <= 64
    except UsageError as error:
        complaint = str(error)
    assert complaint.startswith("--secret-file: ")


def test_no_file_is_no_secret() -> None:
    assert read_secret(None) == b""


def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(UsageError, match="--ca-file: /nowhere/at/all cannot be read"):
        read_file("--ca-file", "/nowhere/at/all")


@pytest.mark.parametrize(
    ("text", "overlap_ms"), [("0", 0), ("0s", 0), ("24h", 24 * HOUR_MS), ("7d", 168 * HOUR_MS), ("90m", 90 * 60_000)]
)
def test_an_overlap_is_a_duration(text: str, overlap_ms: int) -> None:
    assert parse_overlap_ms(text) == overlap_ms


@pytest.mark.parametrize("text", ["169h", "8d", "", "1", "soon"])
def test_any_other_overlap_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--overlap"):
        parse_overlap_ms(text)
