"""URLs of stores and brokers: what they mean to redis-py and to kombu, and what is said of wrong ones."""

from __future__ import annotations

import re

import pytest

from bridge.domain.server_urls import broker_address, store_address, store_url


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("valkey+cluster://h:1,h:2", "redis+cluster://h:1,h:2"),
        ("valkey+sentinel://h/a+b", "redis+sentinel://h/a+b"),
    ],
)
def test_valkeys_schemes_are_spelled_as_redis(given: str, meant: str) -> None:
    assert store_url(given) == meant


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("REDIS://h:1/0", "redis://h:1/0"),
        ("Valkeys://h:1/0", "rediss://h:1/0"),
        ("redis+cluster://[::1]:7000,h:7001", "redis://[::1]:7000/0"),
        ("redis+cluster://h:1/0?db=0", "redis://h:1/0"),
        ("rediss+cluster://u:p@h?ssl_ca_certs=/etc/ca.pem", "rediss://u:p@h:6379/0?ssl_ca_certs=/etc/ca.pem"),
        ("valkeys+cluster://h", "rediss://h:6379/0"),
        ("valkeys+sentinel://h/main/3?ssl_ca_certs=/etc/ca.pem", "rediss://h:26379/3?ssl_ca_certs=/etc/ca.pem"),
        ("redis+sentinel://[::1]/main", "redis://[::1]:26379/0"),
        ("unix:///run/a%20b.sock", "unix:///run/a%20b.sock"),
        ("unix:///run/v.sock?virtual_host=2", "unix:///run/v.sock?db=2"),
    ],
)
def test_a_store_is_reached_at(given: str, meant: str) -> None:
    """Fault: a scheme in capitals was let in as it stood, and redis-py refused it at the first command."""
    assert store_address(given).url == meant


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("redis://h/?db=3", "redis://h/3"),
        ("redis://h?db=3", "redis://h/3"),
        ("redis://h/1?db=3", "redis://h/1"),
        ("unix:///run/v.sock", "redis+socket:///run/v.sock"),
        ("unix:///run/a%20b.sock?db=2", "redis+socket:///run/a%20b.sock?virtual_host=2"),
    ],
)
def test_a_broker_is_reached_at(given: str, meant: str) -> None:
    assert broker_address(given).url == meant


def test_any_of_the_sentinels_urls_may_name_the_group_and_the_options() -> None:
    for given in ("sentinel://h:1?master_name=m;sentinel://h:2", "sentinel://h:1;sentinel://h:2?master_name=m"):
        found = store_address(given)
        assert (found.sentinels, found.group) == ((("h", 1), ("h", 2)), "m")
    broker = broker_address("sentinel://h:1?sentinel_password=s;sentinel://h:2?master_name=m")
    assert broker.transport_options["master_name"] == "m"
    assert store_address("sentinel://h:1?sentinel_password=s;sentinel://h?master_name=m").sentinel_login == {
        "password": "s"
    }


def test_what_sentinels_are_asked_with_is_theirs_alone() -> None:
    found = store_address("redis+sentinel://:p@h:1,h:2/main/0?sentinel_username=u&sentinel_password=s")
    assert (found.url, found.sentinel_login) == ("redis://:p@h:1/0", {"username": "u", "password": "s"})


@pytest.mark.parametrize("given", ["pyamqp://h", "amqps://h", "amqp://h"])
def test_a_rabbit_is_taken_as_it_is(given: str) -> None:
    assert broker_address(given).url == given


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("kafka://h", "the scheme kafka:// is not supported; give redis://HOST:PORT/DB, "),
        ("hunter2://h", "its scheme is not supported; give redis://HOST:PORT/DB, "),
        (
            "redis://",
            "the URL has no valid host and port (a password must be percent-encoded); give redis://HOST:PORT/DB",
        ),
        ("unix://", "the URL names no socket; give unix:///PATH with three slashes"),
        ("unix:///", "the URL names no socket; give unix:///PATH with three slashes"),
        ("redis://h/x", "the path of the URL must be a database number, such as /0"),
        ("redis+cluster://h/3", "a cluster has database 0 alone; leave the path of the URL out"),
        ("redis+cluster://h?db=3", "a cluster has database 0 alone; leave the path of the URL out"),
        ("redis+cluster://h/x", "the path of the URL must be a database number, such as /0"),
        (
            "redis+cluster://",
            "the URL has no valid host and port (a password must be percent-encoded); give redis+cluster://HOST:PORT",
        ),
        (
            "redis+sentinel:///main",
            "the URL has no valid host and port (a password must be percent-encoded); give redis+sentinel://HOST",
        ),
        ("redis+sentinel://h", "Sentinel needs the name of its group, as in "),
        ("redis+sentinel://h/main/x", "the path of the URL must be a database number, such as /0"),
        ("sentinel://h;h:2?master_name=m", "a list of Sentinels must have sentinel:// before each"),
        ("sentinel://h", "Sentinel needs the name of its group, as in "),
    ],
)
def test_a_wrong_store_is_told_in_these_words(given: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(says)}"):
        store_address(given)


@pytest.mark.parametrize("given", ["redis://h?colour=1", "redis+sentinel://h/main?colour=1"])
def test_an_option_that_celery_does_not_know_is_an_error_that_does_not_repeat_it(given: str) -> None:
    """Fault: it was shown, and where a password has a "?" that is not percent-encoded, it is the password's end."""
    with pytest.raises(ValueError, match=r"^the URL has an option that Celery does not know; leave it out ") as caught:
        broker_address(given)
    assert "colour" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("h:1", "not a URL; give "),
        ("redis://h:x", "the URL has no valid host and port; give "),
        ("redis://", "the URL has no valid host and port (a password must be percent-encoded); give "),
    ],
)
def test_a_wrong_broker_is_told_what_a_broker_may_be(given: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(says)}redis://HOST:PORT/DB, .* amqp:// or amqps://$"):
        broker_address(given)
