"""Every command that looks into the store, with any arguments: done, or an error in a line; never a traceback."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from bridge.cli.commands import COMMANDS
from bridge.cli.main import build
from bridge.wiring import Bridge
from tests.commands import Terminal, deliveries_in_every_state
from tests.examples import examples

SERVERS = {"demo", "up", "worker", "beat", "flower", "web", "listen", "simulator", "doctor"}
"""They would start, and go on: of these only what is refused before is tried."""

ENDLESS = {("events", "tail")}


@dataclass(frozen=True)
class Leaf:
    """A command: its words, its options with whether each takes a value, and how many arguments it may take."""

    words: tuple[str, ...]
    options: tuple[tuple[str, bool], ...]
    most_arguments: int


def _leaf(words: tuple[str, ...], command: Any) -> Leaf:
    options = [
        (name, not parameter.is_flag)
        for parameter in command.params
        if parameter.param_type_name == "option"
        for name in (*parameter.opts, *parameter.secondary_opts)
    ]
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    return Leaf(words, tuple(options), 3 if any(one.nargs == -1 for one in arguments) else len(arguments) + 1)


def _leaves() -> Iterator[Leaf]:
    for name in COMMANDS:
        command = cast("Any", typer.main.get_command(build(name))).commands[name]
        group: dict[str, Any] = getattr(command, "commands", {})
        if not group:
            yield _leaf((name,), command)
        for sub, one in group.items():
            yield _leaf((name, sub), one)


LEAVES = list(_leaves())
TRIED = [leaf for leaf in LEAVES if leaf.words[0] not in SERVERS and leaf.words not in ENDLESS]

texts = (
    st.text(st.characters(blacklist_characters="\0"), max_size=20)
    | st.binary(max_size=12).map(lambda raw: raw.replace(b"\0", b"").decode(errors="surrogateescape"))
    | st.sampled_from(
        [
            *("", "0", "-1", "1", "99999999999999999999", "9" * 5_000, "1e400", "nan", "x" * 10_000, "\n", "a:b", "*"),
            *("default", "nAQDODtO", "(86)18500000001", "https://127.0.0.1/sms", "http://[", "1h", "999999999d"),
            *("2026-11-23T14:31:08+08:00", "0001-01-01", "9999-12-31T23:59:59Z", "1795423107", "{}", '{"a":1}', "["),
            *("K=V", "=", "X-A: b", "whsec_", "-", "--", "/dev/null", "/nowhere", "all", "dead", "evt_" + "a" * 26),
            *("default:1-1", "sub_aaaaaaaaaaaaaaaa", "é", "١"),
        ]
    )
)


@st.composite
def arguments(draw: st.DrawFn) -> list[str]:
    leaf = draw(st.sampled_from(TRIED))
    argv = list(leaf.words)
    for name, takes_value in draw(st.lists(st.sampled_from(leaf.options), max_size=4)):
        argv += [name, draw(texts)] if takes_value else [name]
    return argv + draw(st.lists(texts, max_size=leaf.most_arguments))


def test_hardly_a_command_is_left_out() -> None:
    assert len(TRIED) >= 30
    assert {leaf.words[0] for leaf in LEAVES} == set(COMMANDS)


@examples(150, shared=True)
@given(argv=arguments())
def test_any_arguments_end_in_an_exit_code_and_at_most_a_line(
    bridge: Bridge, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    if not bridge.subscriptions.load().by_id():
        deliveries_in_every_state(bridge)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"s1\n\xff\n"), errors="surrogateescape"))
    ran = terminal(*argv)
    assert ran.code in {0, 1, 2, 3}
    assert "this is a bug" not in ran.err
    assert "Traceback" not in ran.err
    # What `accounts check` could not reach is its result.
    assert ran.err or ran.code in {0, 1} or (ran.code == 3 and ran.out)


@pytest.mark.parametrize("name", sorted(SERVERS))
@pytest.mark.parametrize("rest", [["--no-such-option"], ["an argument too many", "and one more"], ["\udcff"]])
def test_what_a_server_does_not_know_keeps_it_from_starting(terminal: Terminal, name: str, rest: list[str]) -> None:
    ran = terminal(name, *rest)
    assert ran.code == 2
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("words", [leaf.words for leaf in LEAVES], ids=" ".join)
def test_bytes_that_are_no_utf_8_are_bad_usage(terminal: Terminal, words: tuple[str, ...]) -> None:
    """Fault: the name of a session or subscription went to the store with half a character in it, which nothing can
    encode: `bridge subscriptions show $'\\xff'` ended in "this is a bug"."""
    ran = terminal(*words, "\udcff")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: argument {len(words) + 1} is not UTF-8")
