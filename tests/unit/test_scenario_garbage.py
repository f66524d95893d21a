"""Scenario files of the simulator: whatever is in one, a scenario or an error that names file and field."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import UsageError
from bridge.simulator.scenario import Cast, Scenario
from tests.examples import examples

KEYS = [
    *("seed", "time_scale", "echo", "projects", "timelines", "default", "phones", "faults", "log_limit", "rates"),
    *("script", "fault", "rate", "ret_code", "status", "times", "result", "delay", "code", "number", "prefix", "share"),
]
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.dates()
    | st.sampled_from(["slow", "as_sent", "bare", "hang", "http_status", "retcode", 0.5, 10**400, 1e308, "\ud800"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | scalars, inner, max_size=3),
    max_leaves=8,
)
steps = st.lists(st.fixed_dictionaries({"result": values, "delay": values}, optional={"code": values}), max_size=2)
rules = st.fixed_dictionaries(
    {"timeline": st.just("slow") | values}, optional={"number": values, "prefix": values, "share": values}
)
faults = st.fixed_dictionaries(
    {},
    optional={
        "script": values,
        "rates": st.lists(
            st.fixed_dictionaries({"fault": st.sampled_from(["hang", "retcode"]) | values, "rate": values}), max_size=3
        ),
    },
)
scenarios = st.fixed_dictionaries(
    {},
    optional={
        "seed": values,
        "time_scale": values | st.floats(min_value=1e-9),
        "timelines": st.fixed_dictionaries({"slow": steps}),
        "default": values | steps,
        "phones": st.lists(rules, max_size=2),
        "faults": faults,
        "log_limit": values,
    },
)
YAML = [
    *("seed: ", "phones: ", "? ", "- ", "[", "{", "}", "]", "&a ", "*a", "<<: ", "!!binary ", "!!timestamp ", "!!set "),
    *("!!int ", "!!float ", "!!bool ", "!!omap ", "!!python/object:x ", "2001-99-99", "2026-01-01", "\n", " ", "0x"),
    *("0b_", "1:60", "=", ".inf", "'", '"', "|", "%YAML", "---", "...", '"\\ud800"', "_", "x", "7"),
]


def play(scenario: Scenario) -> None:
    """What is let in can be played."""
    Cast(scenario, 7).timeline_of("(86)18500000000")


@examples(150)
@given(values | scenarios)
def test_any_value_is_a_scenario_or_an_error_that_can_be_shown(given: Any) -> None:
    said = "scenario"
    try:
        play(Scenario.from_dict(given))
    except UsageError as error:
        said = str(error)
    assert said.startswith("scenario")
    said.encode()


@examples(150)
@given(
    st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.lists(st.sampled_from(YAML), max_size=10).map(lambda parts: "".join(parts).encode())
)
def test_any_file_is_a_scenario_or_an_error_that_names_it(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "scenario.yml"
    path.write_bytes(raw)
    with contextlib.suppress(UsageError):
        play(Scenario.from_file(path))


@pytest.mark.parametrize(
    "raw",
    [b"seed: 2001-99-99", b"seed: !!int x", b"seed: !!timestamp x", b"seed: !!bool x", b"seed: 0b_", b"[" * 1_200],
    ids=lambda raw: repr(raw[:20]),
)
def test_what_yaml_itself_trips_over_names_the_file(tmp_path: Path, raw: bytes) -> None:
    """Fault: PyYAML's types raise ValueError, KeyError, AttributeError and more, which ended the command as a bug."""
    path = tmp_path / "scenario.yml"
    path.write_bytes(raw)
    with pytest.raises(UsageError) as caught:
        Scenario.from_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", ["\ud800", {"default": [{"result": "\ud800", "delay": 1}]}])
def test_half_a_character_is_a_mistake_of_the_scenario(given: object) -> None:
    """Fault: msgspec raises UnicodeEncodeError for a lone surrogate, which YAML's escapes can spell."""
    with pytest.raises(UsageError, match="scenario: has half"):
        Scenario.from_dict(given)
