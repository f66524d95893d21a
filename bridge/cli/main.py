"""The ``bridge`` command: finds the command named, runs it, and turns how it ended into a line and an exit code.

Exit codes: 0 done, 1 failed, 2 bad usage, 3 not reachable, 130 ended by Ctrl-C.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from bridge.cli.commands import COMMANDS, Command
from bridge.errors import BridgeError, UsageError

HELP = """UCloud USMS delivery receipts, as signed callbacks."""

EXAMPLES = """Examples:

\b
bridge demo                              the main job on this machine, with nothing to configure
bridge listen --port 9000                receive callbacks here and print them
bridge simulator --port 8800             a provider to try things out with
bridge COMMAND --help                    what a command does, with its options
"""


def run(argv: Sequence[str] | None = None) -> int:
    """Run ``argv`` (default: this process's) and return the exit code; the entry of the console script."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in _root_options(arguments)
    try:
        _refuse_what_is_no_text(arguments)
        code = _run(arguments)
        sys.stdout.flush()
    except BridgeError as error:
        _say(f"error: {error}")
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = 1
    except Exception as error:  # noqa: BLE001 - the last resort, that a user may see one line and not a page
        if debug:
            traceback.print_exc()
        else:
            _say(f"this is a bug: {type(error).__name__}: {error} (`bridge --debug …` shows where)")
        code = 1
    _discard_unwritable_output()
    return code


def _refuse_what_is_no_text(arguments: Sequence[str]) -> None:
    """Raises UsageError: bytes that are no UTF-8 come in as lone surrogates, which nothing that is asked can encode."""
    for place, argument in enumerate(arguments, 1):
        if any("\ud800" <= char <= "\udfff" for char in argument):
            raise UsageError(f"argument {place} is not UTF-8: give it as such; see which encoding the terminal has")


def _run(arguments: Sequence[str]) -> int:
    try:
        # Not app(): that would also put Typer's own hook for exceptions into this process.
        typer.main.get_command(build(_chosen(arguments))).main(args=list(arguments), prog_name="bridge")
    except SystemExit as ended:
        if isinstance(ended.code, int):
            return ended.code
        if ended.code is None:
            return 0
        raise BridgeError(str(ended.code)) from None
    return 0


def build(chosen: str | None, commands: dict[str, Command] | None = None) -> typer.Typer:
    """The application with the command ``chosen`` imported, and of the others only names and help."""
    # Typer's boxes help a person at a terminal, and make lines in a log unreadable.
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode="rich" if sys.stdout.isatty() and sys.stderr.isatty() else None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(help=HELP, epilog=EXAMPLES)(_root)
    for name, command in (COMMANDS if commands is None else commands).items():
        if name != chosen:
            app.command(name, help=command.help, rich_help_panel=command.panel)(_not_loaded)
            continue
        target = getattr(importlib.import_module(command.module), command.attribute)
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=name, help=command.help, rich_help_panel=command.panel)
        else:
            app.command(name, rich_help_panel=command.panel)(target)
    return app


def _version_and_exit(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"usms-bridge {version('usms-bridge')}")
        except PackageNotFoundError:
            print("usms-bridge, not installed: run from its source")
        raise typer.Exit


def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_version_and_exit, help="Show the version."),
    ] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Show where an unexpected error arose.")] = False,
) -> None:
    pass


def _not_loaded() -> None:
    raise AssertionError("only the command that was named is run, and that one is loaded")


def _root_options(arguments: Sequence[str]) -> list[str]:
    """What comes before the command's name; each of our own options is a flag."""
    chosen = _chosen(arguments)
    return list(arguments[: arguments.index(chosen)] if chosen is not None else arguments)


def _chosen(arguments: Sequence[str]) -> str | None:
    return next((argument for argument in arguments if not argument.startswith("-")), None)


def _say(line: str) -> None:
    # The message may hold a subscriber's or provider's own words: none of them may steer the terminal.
    text = "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in line)
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:  # nobody is there to read it
        return


def _discard_unwritable_output() -> None:
    """Without this, output that nobody reads (``bridge … | head``) makes Python complain once more at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


if __name__ == "__main__":
    sys.exit(run())
