"""How many subscriptions an account may have, whoever adds them at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.domain.commits import ABSENT, CommitResult, Write
from bridge.errors import NotFound, UsageError
from bridge.store import callback_urls, keys
from bridge.store.callback_urls import CallbackUrls
from bridge.store.client import Call, Client
from bridge.store.removing import Remover
from bridge.store.subscriptions import Found, SubscriptionStore
from tests.parts import OPEN, Parts, entry, subscription


def add(parts: Parts, name: str, most: int, account: str = "default") -> bool:
    """Whether it was taken."""
    try:
        parts.subscriptions.put(subscription(name, account=account), most)
    except UsageError:
        return False
    return True


def test_one_more_than_an_account_may_have_is_refused_with_what_to_do(parts: Parts) -> None:
    parts.subscriptions.put(subscription("sub_a", account="shop"), 2)
    parts.subscriptions.put(subscription("sub_b", account="shop"), 2)
    with pytest.raises(UsageError) as refused:
        parts.subscriptions.put(subscription("sub_c", account="shop"), 2)
    assert str(refused.value) == (
        "the account shop has 2 subscriptions, as many as BRIDGE_MAX_SUBSCRIPTIONS allows: remove some (see `bridge "
        "subscriptions list --account shop`), or raise it"
    )
    assert refused.value.exit_code == 2
    assert {one.id for one in parts.subscriptions.load().of("shop")} == {"sub_a", "sub_b"}


def test_a_limit_is_of_each_account_and_of_what_is_there(parts: Parts) -> None:
    assert add(parts, "sub_a", 1)
    assert add(parts, "sub_b", 1, "shop")
    assert add(parts, "sub_a", 1), "it takes the place of itself"
    assert not add(parts, "sub_c", 1)
    parts.subscriptions.disable("sub_a", "gone", 1)
    assert not add(parts, "sub_c", 1), "one that is disabled is there"
    parts.subscriptions.remove("sub_a")
    assert add(parts, "sub_c", 1)


def test_a_limit_that_was_lowered_refuses_and_takes_nothing_away(parts: Parts) -> None:
    assert all(add(parts, f"sub_{number}", 3) for number in range(3))
    assert not add(parts, "sub_x", 1)
    assert len(parts.subscriptions.load().of("default")) == 3


def test_however_many_add_at_once_the_limit_holds(parts: Parts) -> None:
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda number: add(parts, f"sub_{number}", 20), range(200)))
    assert taken.count(True) == 20
    assert len(parts.subscriptions.load().of("default")) == 20


_ADD = st.tuples(st.just("add"), st.sampled_from("abcd"), st.sampled_from(["shop", "bank"]))
_REMOVE = st.tuples(st.just("remove"), st.sampled_from("abcd"), st.just(""))
_URL = st.tuples(st.sampled_from(["name", "forget"]), st.sampled_from("xy"), st.sampled_from(["shop", "bank"]))


@given(st.lists(st.one_of(_ADD, _REMOVE, _URL), max_size=30))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_count_is_that_of_what_is_there(parts: Parts, steps: list[tuple[str, str, str]]) -> None:
    parts.empty()
    urls = urls_of(parts)
    owners: dict[str, str] = {}
    for step, name, account in steps:
        if step == "add":
            owners.setdefault(name, account)  # an id has one account for life
            assert add(parts, name, 2, owners[name]) or list(owners.values()).count(owners[name]) > 2
        elif step == "remove":
            with suppress(NotFound):
                parts.subscriptions.remove(name)
            owners.pop(name, None)
        elif step == "name":
            urls.subscribe(account, f"http://127.0.0.1/{name}", 1)
        else:
            urls.remove_unused(account, 2)
        there = [one.account for one in parts.subscriptions.load().by_id().values() if not one.implicit]
        counted = cast("dict[bytes, bytes]", parts.redis.hgetall(keys.OWNED))
        assert {account: there.count(account) for account in there} == {
            account.decode(): int(count) for account, count in counted.items()
        }
        owners = {name: owner for name, owner in owners.items() if parts.subscriptions.find(name) is not None}


def urls_of(parts: Parts) -> CallbackUrls:
    clear = Remover(parts.subscriptions, parts.queues, parts.attempts).clear
    return CallbackUrls(parts.client, parts.subscriptions, parts.queues, clear)


def size_of(parts: Parts) -> tuple[int, int]:
    """How many keys there are, and how many bytes they take."""
    names = list(parts.client.scan("*"))
    taken = parts.client.commands([["MEMORY", "USAGE", name, "SAMPLES", 0] for name in names])
    return len(names), sum(cast("list[int]", taken))


def test_what_is_refused_costs_one_call_and_no_memory_however_much_it_is(parts: Parts) -> None:
    """Of 100,000 registrations of one account the store holds as many as it may have, at each moment.

    A tenth of them is tried by itself; the rest would cost the same, and that they do is what is shown.
    """
    limit, tried = 100, 10_000
    assert all(add(parts, f"sub_{number}", limit) for number in range(limit))
    size, trips = size_of(parts), []
    for number in range(limit, tried):
        before = parts.client.round_trips
        assert not add(parts, f"sub_{number}", limit)
        trips.append(parts.client.round_trips - before)
    assert set(trips) == {1}, "of the first that is refused and of the last"
    assert size_of(parts) == size
    assert len(parts.subscriptions.load().by_id()) == limit


def test_a_commit_to_as_many_as_there_may_be_is_cut_where_it_can_be(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: the server answered nobody for seconds, and the poller gave the commit up that it waited for.

    Cause: a script was cut by its events, however many subscriptions each of them went to. Fix: by both.
    """
    calls: list[Call] = []
    run = Client.run

    def noted(client: Client, given: Sequence[Call]) -> list[object]:
        calls.extend(given)
        return run(client, given)

    names = [f"sub_{number}" for number in range(100)]
    of_a_shard = [no for number in range(100) if parts.shard(no := f"s{number}") == 0][:11]
    writes = [Write(no, ABSENT, OPEN, 1, None, [entry(no, to=names)]) for no in of_a_shard]
    monkeypatch.setattr(Client, "run", noted)
    assert set(parts.sessions.commit("default", writes).values()) == {CommitResult.WRITTEN}
    # One event of 100 routes is a session's, and a call has no more than 1,000.
    assert [sum(":s:default:" in key for key in call.keys) for call in calls] == [10, 1]
    assert set(parts.queues.lengths(names).values()) == {11}


# Subscriptions that sessions' URLs imply.


def test_however_many_urls_are_named_at_once_the_limit_holds(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: of two sessions that named the same URL at once, one too many for its account, one was taken, and its
    subscription counted nowhere: nothing removed it ever, and with each such pair there was one more.

    Cause: the URL was counted, and struck off where it was one too many; whoever came in between found it counted.
    Fix: it is counted only where there is room, in one script.
    """
    monkeypatch.setattr(callback_urls, "MOST_CALLBACK_URLS", 5)
    urls = urls_of(parts)

    def name(number: int) -> bool:
        try:
            urls.subscribe("default", f"http://127.0.0.1/{number % 40}", 1)
        except UsageError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(name, range(400)))
    there = {one.id for one in parts.subscriptions.load().of("default")}
    (counted,) = parts.client.commands([["ZRANGE", keys.callbacks("default"), 0, -1]])
    assert there == {one.decode() for one in cast("list[bytes]", counted)}
    assert len(there) == 5
    assert taken.count(True) == 50, "each of the five, whenever it is named"


def test_a_url_that_is_counted_without_a_subscription_has_one_when_it_is_named_again(parts: Parts) -> None:
    """Whoever named it first was killed in between."""
    urls = urls_of(parts)
    name = urls.subscribe("default", "http://127.0.0.1/", 1)
    parts.subscriptions.remove(name)
    assert urls.subscribe("default", "http://127.0.0.1/", 2) == name
    assert parts.subscriptions.get(name).passage is None


def test_a_subscription_of_an_older_release_is_removed_as_any_other(parts: Parts) -> None:
    """What it is stored as is not what this release would write."""
    urls = urls_of(parts)
    name = urls.subscribe("default", "http://127.0.0.1/", 1)
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(parts.subscriptions.get(name)))
    del fields["passage"]
    parts.redis.hset(keys.SUBSCRIPTIONS, name, msgspec.msgpack.encode(fields))
    assert urls.remove_unused("default", 2) == 1
    assert parts.subscriptions.load().by_id() == {}


def test_when_one_is_removed_no_later_commit_routes_to_it(parts: Parts) -> None:
    urls = urls_of(parts)
    urls.subscribe("default", "http://127.0.0.1/", 1)
    known = parts.subscriptions.load()
    assert urls.remove_unused("default", 2) == 1
    write = Write("s1", ABSENT, OPEN, 1, None)
    assert parts.sessions.commit("default", [write], known.versions) == {"s1": CommitResult.STALE_REGISTRY}


def test_what_something_can_use_after_all_is_put_back(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that is committed just before every commit knows that its subscription is gone."""
    urls = urls_of(parts)
    name = urls.subscribe("default", "http://127.0.0.1/", 1)
    drop = SubscriptionStore.drop

    def drop_late(store: SubscriptionStore, found: Found) -> bool:
        parts.write("s1", entry("s1", to=[name]))
        return drop(store, found)

    monkeypatch.setattr(SubscriptionStore, "drop", drop_late)
    assert urls.remove_unused("default", 2) == 0
    assert [one.id for one in parts.subscriptions.load().of("default")] == [name]
    assert parts.queues.lengths([name]) == {name: 1}
