from __future__ import annotations

import errno
import io
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from bridge.observe.logs import get_logger, setup_logging

ROOT = Path(__file__).parents[2]
PHONE = "(86)18500001234"
DIGITS = "18500001234"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - published with the Standard Webhooks libraries


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    kept = (root.handlers[:], root.level, sys.excepthook, threading.excepthook)
    yield
    root.handlers, sys.excepthook, threading.excepthook = kept[0], kept[2], kept[3]
    root.setLevel(kept[1])
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert DIGITS not in captured.err
    assert SECRET not in captured.err
    return [json.loads(line) for line in captured.err.splitlines()]


def raise_with_a_phone() -> None:
    local = PHONE
    raise ValueError(f"no such phone: {local}, secret {SECRET}")


def test_a_line_of_ours_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("json")
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        get_logger("bridge.polling").info("polled", session_no="12345678", phone=PHONE, count=7, level="x")
    (line,) = lines(capsys)
    assert str(line.pop("timestamp")).endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "bridge.polling",
        "event": "polled",
        "request_id": "r-1",
        "session_no": "12345678",
        "phone": "***1234",
        "count": 7,
        "level_": "x",
    }


@pytest.mark.parametrize("name", ["celery", "celery.task", "kombu", "uvicorn.error", "uvicorn.access", "requests"])
def test_a_library_s_line_takes_the_same_way(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger(name).addHandler(logging.StreamHandler())
    setup_logging("json")
    logging.getLogger(name).warning("sent to %s with %s", PHONE, {"Signature": "abc"})
    if name == "requests":
        logging.getLogger(name).handlers.clear()
        capsys.readouterr()
        logging.getLogger(name).warning("sent to %s with %s", PHONE, {"Signature": "abc"})
    (line,) = lines(capsys)
    assert line["event"] == "sent to ***1234 with {'Signature': '***'}"
    assert line["logger"] == name


@pytest.mark.parametrize("ours", [True, False])
def test_a_traceback_is_scrubbed(ours: bool, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("json")
    try:
        raise_with_a_phone()
    except ValueError:
        if ours:
            get_logger("bridge").exception("failed")
        else:
            logging.getLogger("celery.app.trace").exception("failed")
    (line,) = lines(capsys)
    assert "ValueError: no such phone: ***1234, secret whsec_***" in str(line["exception"])
    assert "raise_with_a_phone" in str(line["exception"])


def test_a_console_line_is_scrubbed_and_has_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("console")
    try:
        raise_with_a_phone()
    except ValueError:
        get_logger("bridge").error("failed", to=PHONE, exc_info=True)
    text = capsys.readouterr().err
    assert DIGITS not in text
    assert "failed" in text
    assert "to=***1234" in text
    assert "ValueError: no such phone: ***1234" in text


def test_setting_up_again_replaces_what_was(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("console")
    setup_logging("json", "WARNING")
    get_logger("bridge").info("not this")
    get_logger("bridge").warning("this")
    assert [line["event"] for line in lines(capsys)] == ["this"]


def test_talkative_libraries_are_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("json", "DEBUG")
    logging.getLogger("urllib3.connectionpool").debug("GET /?phone=%s", PHONE)
    assert lines(capsys) == []


def test_a_line_that_cannot_be_written_shows_no_argument(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger().handlers = []  # pytest's own raise such a mistake
    setup_logging("json")
    logging.getLogger("celery").error("%d sent", PHONE)
    text = capsys.readouterr().err
    assert DIGITS not in text
    assert "a log line of celery:" in text


def test_warnings_are_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # catch_warnings put its own function in place of logging's
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn(f"do not send {PHONE}", UserWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    assert "do not send ***1234" in str(lines(capsys)[0]["event"])


def test_uncaught_exceptions_of_a_process_and_its_threads_are_scrubbed_lines() -> None:
    script = textwrap.dedent("""
        import threading
        from bridge.observe.logs import setup_logging
        setup_logging("json")
        def fail():
            raise ValueError("(86)" + "185" + "00001234")
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        fail()
    """)
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 1
    assert DIGITS not in ran.stderr
    told = [json.loads(line) for line in ran.stderr.splitlines()]
    assert [(line["level"], line["event"]) for line in told] == [("critical", "uncaught exception")] * 2


def test_a_logger_before_any_setup_prints_nothing_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.reset_defaults()
    get_logger("bridge").info("early", phone=PHONE)
    assert capsys.readouterr().out == ""


class _FullDisk(io.StringIO):
    """A file on a disk that is full."""

    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_file_on_a_full_disk_costs_the_line_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to tell of the lost line went to the same full disk, and its error ended whoever had logged."""
    monkeypatch.setattr(sys, "stderr", _FullDisk())
    setup_logging("json")
    get_logger("bridge").info("polled")
