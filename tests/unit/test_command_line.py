"""How commands end: one line and an exit code for whatever happens; and what starting one costs."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
from collections.abc import Callable
from typing import NoReturn

import pytest
import typer

from bridge.cli import main
from bridge.cli.commands import COMMANDS, Command
from bridge.errors import BridgeError, NotFound, StoreUnreachable, UsageError


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Puts a function in place of every command: it is called ``try``."""

    def put(function: Callable[[], object]) -> None:
        module = types.ModuleType("a_command_for_tests")
        module.__dict__["run"] = function
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(
            main, "COMMANDS", {"try": Command(module=module.__name__, attribute="run", help="Try.", panel="Run")}
        )

    return put


def raising(error: BaseException) -> Callable[[], NoReturn]:
    def run() -> NoReturn:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BridgeError("it failed"), 1, "error: it failed\n"),
        (NotFound("no such session"), 1, "error: no such session\n"),
        (UsageError("give a URL"), 2, "error: give a URL\n"),
        (StoreUnreachable("no answer"), 3, "error: no answer\n"),
        (BridgeError("\x1b[2J steers"), 1, "error: \\x1b[2J steers\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 1, ""),
        (SystemExit(143), 143, ""),
        (SystemExit(None), 0, ""),
        (SystemExit("a reason"), 1, "error: a reason\n"),
        (typer.Exit(1), 1, ""),
        (
            KeyError("x"),
            1,
            "this is a bug: KeyError: 'x' (`bridge --debug …` shows where)\n",
        ),
    ],
    ids=repr,
)
def test_an_error_is_one_line_and_an_exit_code(
    command: Callable[[Callable[[], object]], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    command(raising(error))

    assert main.run(["try"]) == code
    assert capsys.readouterr().err == line


def test_debug_shows_where_an_unexpected_error_arose(
    command: Callable[[Callable[[], object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(KeyError("x")))

    assert main.run(["--debug", "try"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_command_that_ends_well_exits_with_0(command: Callable[[Callable[[], object]], None]) -> None:
    command(lambda: "what it returns is no exit code")

    assert main.run(["try"]) == 0


@pytest.mark.parametrize("arguments", [["no-such-command"], ["--no-such-option"], ["listen", "--no-such-option"]])
def test_bad_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(arguments) == 2
    assert "No such" in capsys.readouterr().err


def test_the_nearest_command_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    main.run(["lisen"])

    assert "Did you mean 'listen'?" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_every_command_and_gives_examples(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([option]) == 0

    shown = capsys.readouterr().out
    for name, each in COMMANDS.items():
        assert f"  {name} " in shown
        assert each.help[:40] in shown  # a line is cut at the terminal's width
    assert "Examples:" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert hasattr(importlib.import_module(COMMANDS[name].module), COMMANDS[name].attribute)
    assert main.run([name, "--help"]) == 0
    assert "--help" in capsys.readouterr().out


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("usms-bridge")


def test_help_imports_nothing_that_it_does_not_need() -> None:
    code = """
import sys
from bridge.cli.main import run
run(["--help"])
heavy = {"redis", "pydantic_settings", "litestar", "uvicorn", "celery", "pycurl", "msgspec", "requests", "rich"}
print(sorted(heavy & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout

    assert out.splitlines()[-1] == "[]"


def test_output_that_nobody_reads_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "bridge.cli.main", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()

        assert process.stderr.read() == ""
