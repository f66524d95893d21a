"""Whatever a setting is set to, it is a value, or an error of one line that names it and keeps its secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.errors import SettingsError
from bridge.settings import Settings, describe, load_settings
from tests.examples import examples

NAMES = [row.name for row in describe()]
SECRETS = [row.name for row in describe() if row.file_name]
LONGEST_LINE = 500

bytes_of_the_environment = st.binary(max_size=40).map(
    lambda raw: raw.replace(b"\0", b"").decode(errors="surrogateescape")
)
pieces = st.sampled_from(
    [
        *("redis://", "rediss://", "redis+cluster://", "unix://", "amqp://", "sentinel://", "https://", "http://"),
        *("@", ":", "/", "?", "#", "[", "]", "::1", "127.0.0.1", "localhost", "6379", "65536", "0", "-1", "5", "%ff"),
        *("9" * 30, "9" * 4_000, "1e999", "nan", "inf", "s", "ms", "d", "h", "MB", "TB", ",", ";", "=", " ", "\n"),
        *("é", "٣", "１", "\udcff", "~", "~nobody9", "x" * 300, "a/" * 3_000, "db=", "yes", "no", "\x1b[31m"),
    ]
)
texts = bytes_of_the_environment | st.text(max_size=60) | st.lists(pieces, max_size=8).map("".join)


def load(name: str, value: str) -> Settings | str:
    """The settings, or what is wrong with them."""
    try:
        return load_settings({name: value}, env_file=None)
    except SettingsError as error:
        return str(error)


@examples(400)
@given(st.sampled_from(NAMES), texts)
def test_any_text_is_a_value_or_an_error_that_names_its_setting(name: str, value: str) -> None:
    found = load(name, value)
    if isinstance(found, Settings):
        assert value[:40] not in repr(found) or name not in SECRETS or len(value) < 10
        found.listen_address  # noqa: B018 - what was let in can be used
        return
    for line in found.splitlines():
        assert line.startswith((f"{name}: ", "BRIDGE_PUBLIC_KEY: ", "BRIDGE_PRIVATE_KEY: ", "BRIDGE_BROKER_URL: "))
        assert line.isprintable()
        assert len(line) <= LONGEST_LINE


passwords = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=12, max_size=20)
around = st.lists(pieces, max_size=4).map("".join)


@examples(200)
@given(st.sampled_from(SECRETS), st.tuples(around, passwords, around), st.booleans())
@example(name="BRIDGE_BROKER_URL", parts=("redis://localhost?", "000000000000", "db="), in_file=False)
def test_no_error_shows_a_secret(
    tmp_path_factory: pytest.TempPathFactory, name: str, parts: tuple[str, str, str], in_file: bool
) -> None:
    """Fault: what stood before the first colon was shown as the URL's scheme, be it a password without its URL."""
    value, password = "".join(parts), parts[1]
    if in_file:
        path = tmp_path_factory.getbasetemp() / "secret"
        path.write_bytes(value.encode(errors="surrogateescape"))
        found = load(f"{name}_FILE", str(path))
    else:
        found = load(name, value)
    assert password not in (found if isinstance(found, str) else repr(found))


TOO_LONG = "x" * 5_000


@pytest.mark.parametrize("name", ["BRIDGE_DATA_DIR", "BRIDGE_CALLBACK_CA_FILE"])
@pytest.mark.parametrize("path", [TOO_LONG, "a/" * 3_000, "/" + "x" * 300])
def test_a_path_that_is_too_long_is_a_mistake_and_no_crash(name: str, path: str) -> None:
    """Fault: pathlib raises OSError for one, and every command ended in "this is a bug"."""
    found = load(name, path)
    assert isinstance(found, str)
    assert found.startswith(f"{name}: ")
    assert "too long" in found
    assert len(found) <= LONGEST_LINE


def test_a_path_that_is_no_utf_8_is_named_with_its_setting() -> None:
    """Fault: the message held the path as it was; it could not be encoded, and named neither setting nor path."""
    found = load("BRIDGE_CALLBACK_CA_FILE", "/nowhere/\udcff")
    assert isinstance(found, str)
    assert found.startswith(r"BRIDGE_CALLBACK_CA_FILE: '/nowhere/\udcff' is not a file")


@pytest.mark.parametrize("path", ["/nowhere\0", TOO_LONG, "/nowhere/\udcff"])
def test_a_secrets_file_that_cannot_be_read_is_said_in_a_line(path: str) -> None:
    """Fault: a NUL, which a `.env` file may hold, raised ValueError; and a path was shown at its whole length."""
    found = load("BRIDGE_PRIVATE_KEY_FILE", path)
    assert isinstance(found, str)
    assert found.splitlines()[0].startswith("BRIDGE_PRIVATE_KEY_FILE: ")
    assert "cannot be read" in found
    assert found.isprintable()
    assert len(found) <= LONGEST_LINE


@pytest.mark.parametrize("name", ["BRIDGE_SHARDS", "BRIDGE_MAX_BACKLOG", "BRIDGE_ALLOW_PORTS"])
def test_a_huge_number_is_not_repeated(name: str) -> None:
    found = load(name, "9" * 4_000)
    assert isinstance(found, str)
    assert found.startswith(f"{name}: a huge number is ")
    assert len(found) <= LONGEST_LINE


def test_what_is_in_a_file_is_read_with_the_bytes_that_it_has(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"\xff\xfe")
    found = load("BRIDGE_PRIVATE_KEY_FILE", str(path))
    assert isinstance(found, str)
    assert "UnicodeDecodeError" in found
