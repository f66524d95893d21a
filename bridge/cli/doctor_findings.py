"""What a check of ``bridge doctor`` comes to, and the words for it."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Verdict(StrEnum):
    """How a check went; only ``fail`` makes the command fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True):
    """What a check found, and what to do about it ("" where nothing is, or the detail says so)."""

    check: str
    verdict: Verdict
    detail: str
    action: str = ""


def ok(check: str, detail: str) -> Finding:
    return Finding(check, Verdict.OK, detail)


def warn(check: str, detail: str, action: str = "") -> Finding:
    return Finding(check, Verdict.WARN, detail, action)


def fail(check: str, detail: str, action: str = "") -> Finding:
    return Finding(check, Verdict.FAIL, detail, action)


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"


def many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
