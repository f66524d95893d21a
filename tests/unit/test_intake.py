"""Which messages a worker works on, and what it leaves of the others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.tracking import MAX_MESSAGE_BYTES
from tasks.consumer import Consumer
from tasks.envelopes import MALFORMED
from tasks.intake import SET_ASIDE, TASKS, Admitted, Unfit, admit, aside

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
PROTOCOL_1 = {"task": "bridge.track", "id": "i", "args": [["s1"]], "kwargs": {"account": "a"}, "expires": "never"}


def admitted(headers: object, body: object, content_type: object = "application/json") -> Admitted:
    text = body if isinstance(body, bytes | str) else json.dumps(body)
    return admit(headers, content_type, "utf-8", text)


def called(message: Admitted) -> tuple[object, Any]:
    return message.headers["task"], json.loads(message.body)


def test_a_message_of_any_celery_app_is_let_in() -> None:
    headers = {"task": "bridge.track", "id": "an-id", "argsrepr": "['18500000000']", "eta": "2099-01-01T00:00:00"}
    message = admitted(headers, [[["s1"]], {"account": "a"}, {"callbacks": None}])
    assert called(message) == ("bridge.track", [[["s1"]], {"account": "a"}, {}])
    assert message.headers["id"] == "an-id"
    assert message.headers["eta"] is None, "a long wait would hold it back from workers that are free"
    assert "18500000000" not in str(message.headers)


def test_one_of_the_old_protocol_is_let_in() -> None:
    message = admitted({}, PROTOCOL_1)
    assert called(message) == ("bridge.track", [[["s1"]], {"account": "a"}, {}])
    assert message.headers["expires"] is None


def test_what_an_older_or_newer_release_says_beside_is_passed_on() -> None:
    message = admitted({"task": "bridge.track", "id": "i", "new": 1}, [[["s1"], "a", "more"], {"future": 1}, {}, 4])
    assert called(message)[1][:2] == [[["s1"], "a", "more"], {"future": 1}]


@pytest.mark.parametrize("number", [None, "", 7, "x" * 256, "a\nb", ["i"]])
def test_an_id_that_is_none_is_replaced(number: object) -> None:
    made = admitted({"task": "bridge.tick", "id": number}, [[], {}, {}]).headers["id"]
    assert isinstance(made, str)
    assert len(made) == 36


@pytest.mark.parametrize(
    ("headers", "body", "content_type", "reason"),
    [
        ({MALFORMED: "not JSON"}, b"x", "application/json", "not JSON"),
        ({"task": "bridge.track"}, b"\xff", "application/json", "not JSON"),
        ({"task": "bridge.track"}, "[" * 100_000, "application/json", "not JSON"),
        ({"task": "bridge.track"}, [], "application/x-python-serialize", "x-python-serialize"),
        ({"task": "bridge.track"}, [[], {}], None, "content type"),
        ({"task": "bridge.track"}, {"args": []}, "application/json", "args, kwargs"),
        ({"task": "bridge.track"}, ["a", {}], "application/json", "args that are no list"),
        ({"task": "bridge.track"}, [[], 7], "application/json", "args that are no list"),
        ({"task": "celery.backend_cleanup"}, [[], {}], "application/json", "unknown task"),
        ({"task": ["bridge.track"]}, [[], {}], "application/json", "task's name"),
        ({}, [[], {}], "application/json", "no task"),
        (None, [[], {}], "application/json", "no task"),
        ({"task": "bridge.track"}, b" " * (MAX_MESSAGE_BYTES + 1), "application/json", "16,777,217 bytes"),
    ],
)
def test_what_cannot_be_worked_on_has_its_reason(
    headers: object, body: object, content_type: object, reason: str
) -> None:
    with pytest.raises(Unfit, match=reason):
        admitted(headers, body, content_type)


@given(headers=JSON, content_type=JSON, encoding=JSON, body=JSON | st.binary() | st.text())
def test_whatever_comes_is_let_in_plain_or_refused(
    headers: Any, content_type: object, encoding: object, body: object
) -> None:
    try:
        message = admit(headers, content_type, encoding, body)
    except Unfit as unfit:
        kept = aside(str(unfit), body, headers.get("task") if isinstance(headers, dict) else None)
        name, (args, kwargs, _) = called(kept)
        assert (name, len(args), kwargs) == (SET_ASIDE, 2, {})
    else:
        assert message.headers["task"] in TASKS


@given(
    args=st.lists(JSON, max_size=3),
    kwargs=st.dictionaries(st.text(), JSON, max_size=3),
    headers=st.dictionaries(
        st.sampled_from(["id", "eta", "expires", "retries", "timelimit", "group", "lang", "argsrepr", "stamps"]), JSON
    ),
)
def test_no_header_but_the_tasks_name_matters(args: object, kwargs: object, headers: dict[str, object]) -> None:
    message = admitted({**headers, "task": "bridge.track"}, [args, kwargs, headers])
    plain = admitted({"task": "bridge.track"}, [args, kwargs, {}])
    assert message.body == plain.body
    assert {**message.headers, "id": "", "root_id": ""} == {**plain.headers, "id": "", "root_id": ""}


class Dead:
    """A connection whose closing raises what is no connection error, as Celery 5.7.0's did."""

    def close(self) -> None:
        raise AttributeError("'NoneType' object has no attribute 'cycle'")

    def collect(self, **_options: object) -> None:
        raise AttributeError


def test_closing_a_dead_connection_ends_no_worker() -> None:
    """Fault of Celery 5.7.0: the error left the consumer's own handler of errors, and the worker exited."""
    consumer: Any = object.__new__(Consumer)
    consumer.app = Celery(set_as_current=False)
    consumer.app.conf.worker_enable_prefetch_count_reduction = False
    consumer.app.conf.worker_cancel_long_running_tasks_on_connection_loss = True
    consumer.connection = Dead()
    consumer.on_connection_error_after_connected(ConnectionError("gone"))
    assert consumer.connection is None
