"""The forms a setting's value can take: each says what it accepts, and turns the text of a variable into a value."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import GetCoreSchemaHandler, SecretBytes, SecretStr
from pydantic_core import CoreSchema, core_schema

from bridge.domain.durations import format_duration_ms, parse_duration_ms, parse_durations_ms

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Form:
    """What a setting accepts. ``read`` gets a variable's text and gives the value, or raises ValueError.

    ``check`` sees the value, whether read or given in Python. A secret form's messages never hold the text.
    """

    description: str
    read: Callable[[str], object]
    check: Callable[[Any], None] = lambda _value: None
    is_secret: bool = False

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._parse, handler(source))

    def _parse(self, value: object) -> object:
        parsed = self.read(value.strip()) if isinstance(value, str) else value
        self.check(parsed)
        return parsed


def whole(least: int, most: int) -> Form:
    """A whole number within bounds."""
    form = f"a whole number from {least:,} to {most:,}"

    def check(value: object) -> None:
        if isinstance(value, int) and not least <= value <= most:
            raise ValueError(f"{_number(value)} is {_beyond(value < least)}; give {form}")

    return Form(form, lambda text: _converted(int, text, form), check)


def fraction(least: str, most: str, unit: str) -> Form:
    """A number within bounds, with or without a fraction."""
    form = f"{unit}, from {least} to {most}"

    def check(value: object) -> None:
        # The comparison is false for nan too.
        if isinstance(value, int | float) and not float(least) <= value <= float(most):
            raise ValueError(f"{value:g} is outside what is accepted; give {form}")

    return Form(form, lambda text: _converted(float, text, form), check)


def size(least: str, most: str) -> Form:
    """An amount of bytes within bounds; units count in thousands."""
    form = f"a size from {least} to {most}"

    def check(value: object) -> None:
        if isinstance(value, int) and not _bytes(least) <= value <= _bytes(most):
            raise ValueError(f"{value} bytes is {_beyond(value < _bytes(least))}; give {form}")

    def read(text: str) -> int:
        try:
            return _bytes(text)
        except ValueError:
            raise ValueError(f"{_shown(text)} is not a size; give a whole number and a unit: 500MB or 2GB") from None

    return Form(form, read, check)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})(KB|MB|GB|TB)", text)
    if match is None:
        raise ValueError(text)
    return int(match[1]) * {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}[match[2]]


def duration(least: str, most: str) -> Form:
    """One duration within bounds, as milliseconds."""
    form = f"a duration from {least} to {most}"
    check = _bounds(least, most, form)
    return Form(form, parse_duration_ms, check)


def schedule(least: str, most: str, *, ascending: bool = False) -> Form:
    """Durations with commas between, as milliseconds."""
    form = f"durations from {least} to {most}" + (", ascending" if ascending else "")
    check_one = _bounds(least, most, form)

    def check(value: object) -> None:
        durations_ms = value if isinstance(value, tuple) else ()
        for duration_ms in durations_ms:
            check_one(duration_ms)
        if len(durations_ms) > 100:
            raise ValueError(f"{len(durations_ms)} steps; give at most 100")
        if ascending and any(later <= earlier for earlier, later in pairwise(durations_ms)):
            raise ValueError("the ages must ascend, each once")

    return Form(form, parse_durations_ms, check)


def yes_no() -> Form:
    """A switch."""
    words = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}

    def read(text: str) -> bool:
        if text.lower() not in words:
            raise ValueError(f"{_shown(text)} is neither yes nor no; give yes or no")
        return words[text.lower()]

    return Form("yes or no", read)


def choice(*words: str) -> Form:
    """One of some words."""
    form = " or ".join(words)

    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"{_shown(text)} is not accepted; give {form}")
        return text.lower()

    return Form(form, read)


def text() -> Form:
    """A short text that goes into a request as it stands."""

    def read(value: str) -> str:
        if not (value.isascii() and value.isprintable()) or len(value) > 128:
            raise ValueError("give at most 128 printable ASCII characters")
        return value

    return Form("a text", read)


def directory() -> Form:
    """A directory, made when it is needed."""

    def read(value: str) -> Path:
        path = _path(value)
        with _reachable(value):
            if path.exists() and not path.is_dir():
                raise ValueError(f"{shown_path(value)} is not a directory; give one, or a path where one can be made")
        return path

    return Form("a directory", read)


def existing_file() -> Form:
    """A file that must be there at the start."""

    def read(value: str) -> Path:
        path = _path(value)
        with _reachable(value):
            if not path.is_file():
                raise ValueError(f"{shown_path(value)} is not a file; give the path of one that exists")
        return path

    return Form("a file", read)


def http_api() -> Form:
    """The URL of an HTTP API."""
    form = "an https:// or http:// URL"

    def read(value: str) -> str:
        try:
            parts = urlsplit(value)
            whole_url = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            whole_url = False
        if not whole_url or not (value.isascii() and value.isprintable()) or "@" in value or " " in value:
            raise ValueError(f"not a URL that can be called; give {form} without a user name")
        return value

    return Form(form, read)


def networks() -> Form:
    """IP networks with commas between."""
    form = "CIDRs such as 10.1.0.0/16,fd00::/8"

    def read_one(value: str) -> IPv4Network | IPv6Network:
        try:
            return ip_network(value)
        except ValueError as error:
            hint = ": the address has bits beyond the prefix" if "host bits" in str(error) else ""
            raise ValueError(f"{_shown(value)} is not a network{hint}; give {form}") from None

    return Form(form, lambda value: tuple(read_one(part) for part in _list(value)))


def ports() -> Form:
    """TCP ports with commas between."""
    form = "ports such as 443,8443"

    def check(value: object) -> None:
        for port in value if isinstance(value, tuple) else ():
            if not 1 <= port <= 65_535:
                raise ValueError(f"{_number(port)} is no port; give {form}, 1 to 65535 each")

    return Form(form, lambda value: tuple(_converted(int, part, form) for part in _list(value)), check)


def address() -> Form:
    """HOST:PORT to listen at; port 0 lets the system choose."""
    form = "HOST:PORT"

    def read(value: str) -> str:
        host, _, port = value.rpartition(":")
        bare = host.strip("[]")
        bracketed = host.startswith("[") and host.endswith("]")
        if not bare or not port.isascii() or not port.isdigit() or int(port[:6]) > 65_535 or (":" in bare) != bracketed:
            raise ValueError(f"{_shown(value)} is not an address; give {form}, such as 127.0.0.1:8080 or [::1]:8080")
        return value

    return Form(form, read)


def secret_text() -> Form:
    """A key, as the provider gives it."""

    def read(value: str) -> SecretStr:
        if not (value.isascii() and value.isprintable()) or " " in value or len(value) > 1_024:
            raise ValueError("not a key (its value is not shown); give it as the provider shows it, without spaces")
        return SecretStr(value)

    return Form("a key", read, is_secret=True)


def secret_url(canonical: Callable[[str], str], form: str, *schemes: str) -> Form:
    """A URL that may hold a password. ``canonical`` gives the spelling that is kept, or raises ValueError.

    ``schemes``, where given, are the ones accepted, and then a user name is required.
    """

    def read(value: str) -> SecretStr:
        if schemes:
            _check_dsn(value, form, schemes)
        return SecretStr(canonical(value))

    return Form(form, read, is_secret=True)


def encryption_keys() -> Form:
    """Keys of AES-256 with commas between."""
    form = "base64 of 32 bytes each, commas between"

    def read(value: str) -> tuple[SecretBytes, ...]:
        return tuple(SecretBytes(_key(part, place, form)) for place, part in enumerate(_list(value), 1))

    return Form(form, read, is_secret=True)


def _key(value: str, place: int, form: str) -> bytes:
    try:
        key = base64.b64decode(value, validate=True)
    except binascii.Error:
        raise ValueError(f"key {place} is not base64 (its value is not shown); give {form}") from None
    if len(key) != 32:
        raise ValueError(f"key {place} has {len(key)} bytes, not 32; give {form}")
    return key


def _check_dsn(value: str, form: str, schemes: tuple[str, ...]) -> None:
    try:
        parts = urlsplit(value)
        whole_url = parts.scheme in schemes and bool(parts.hostname) and bool(parts.username) and parts.port != 0
    except ValueError:
        whole_url = False
    if not whole_url:
        raise ValueError(f"not {form} (its value is not shown); give one such as https://KEY@HOST/PROJECT")


def _bounds(least: str, most: str, form: str) -> Callable[[object], None]:
    least_ms, most_ms = parse_duration_ms(least), parse_duration_ms(most)

    def check(value: object) -> None:
        if isinstance(value, int) and not least_ms <= value <= most_ms:
            limit = least if value < least_ms else most
            raise ValueError(
                f"{format_duration_ms(value) if value >= 0 else value} is "
                f"{'less' if value < least_ms else 'more'} than {limit}; give {form}"
            )

    return check


def _converted(kind: type[Number], text: str, form: str) -> Number:
    try:
        # int() and float() also take 1_000 and digits of other scripts, which are more likely a mistake.
        if text.isascii() and "_" not in text:
            return kind(text)
    except ValueError:
        pass
    raise ValueError(f"{_shown(text)} is not accepted; give {form}")


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text else []


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{_shown(text)}: the home directory is not known; give a whole path") from None


@contextmanager
def _reachable(text: str) -> Iterator[None]:
    """Say what is wrong where a path cannot even be looked at: too long, or behind a directory that is closed."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{shown_path(text)} cannot be looked at ({error.strerror}); give another path") from None


def _beyond(less: bool) -> str:
    return "too small" if less else "too large"


def _number(value: int) -> str:
    # Thousands of digits are none that anybody meant, and more than Python writes.
    return str(value) if abs(value) < 10**20 else "a huge number"


def shown_path(text: str) -> str:
    """A path, as a message has it: no longer than people write, and in printable characters."""
    return text if text.isprintable() and len(text) <= 200 else repr(text if len(text) <= 200 else text[:200] + "…")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
