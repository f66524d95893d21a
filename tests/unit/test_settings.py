from __future__ import annotations

import base64
import re
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from bridge.domain.server_urls import Host, broker_address, safe_url, store_address, store_url
from bridge.errors import SettingsError
from bridge.settings import (
    Settings,
    describe,
    load_settings,
    read_environ,
    settings_table_markdown,
    unknown_settings,
)

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER_KEY = base64.b64encode(bytes(32)).decode()


def load(**variables: str) -> Settings:
    return load_settings(variables, env_file=None)


def mistakes(**variables: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(**variables)
    return str(caught.value).splitlines()


def test_nothing_needs_to_be_set() -> None:
    settings = load()
    assert settings.redis_url is None
    assert settings.broker is None
    assert settings.shards == 8
    assert settings.data_dir == Path("~/.local/share/usms-bridge").expanduser()
    assert settings.provider_rate == 5.0
    assert settings.provider_timeout_ms == 30_000
    assert settings.poll_schedule_ms[:3] == (10_000, 30_000, 60_000)
    assert len(settings.poll_schedule_ms) == 15
    assert len(settings.callback_retry_ms) == 11
    assert settings.allow_networks == ()
    assert settings.allow_ports == ()
    assert settings.secret_keys == ()
    assert settings.listen_address == ("127.0.0.1", 8080)


def test_every_setting_is_read_from_its_variable() -> None:
    given = {
        "BRIDGE_REDIS_URL": "valkey://h/1",
        "BRIDGE_BROKER_URL": "amqp://h",
        "BRIDGE_SHARDS": "4",
        "BRIDGE_DATA_DIR": "/srv/bridge",
        "BRIDGE_TRACK_DURABLE": "yes",
        "BRIDGE_PROVIDER_URL": "http://api.service.ucloud.cn/",
        "BRIDGE_PUBLIC_KEY": "public",
        "BRIDGE_PRIVATE_KEY": "private",
        "BRIDGE_PROJECT_ID": "org-x",
        "BRIDGE_REGION": "cn-bj2",
        "BRIDGE_PROVIDER_RATE": "0.5",
        "BRIDGE_PROVIDER_TIMEOUT": "10s",
        "BRIDGE_POLL_SCHEDULE": "1s, 2s",
        "BRIDGE_OVERDUE_AFTER": "30m",
        "BRIDGE_GIVE_UP_AFTER": "1h",
        "BRIDGE_KEEP_SETTLED": "2h",
        "BRIDGE_KEEP_EVENTS": "3h",
        "BRIDGE_LOG_BYTES": "500MB",
        "BRIDGE_MAX_BACKLOG": "2000",
        "BRIDGE_MAX_SUBSCRIPTIONS": "7",
        "BRIDGE_KEEP_DEAD": "4d",
        "BRIDGE_CALLBACK_RETRY": "5s,1s",
        "BRIDGE_CALLBACK_TIMEOUT": "500ms",
        "BRIDGE_CALLBACK_CONCURRENCY": "1",
        "BRIDGE_CALLBACK_RATE": "12.5",
        "BRIDGE_DISABLE_AFTER": "1h",
        "BRIDGE_CALLBACK_CA_FILE": __file__,
        "BRIDGE_ALLOW_NETWORKS": "127.0.0.0/8, ::1/128",
        "BRIDGE_ALLOW_PORTS": "443,8443",
        "BRIDGE_ALLOW_HTTP": "yes",
        "BRIDGE_SECRET_KEYS": f"{KEY},{OTHER_KEY}",
        "BRIDGE_LISTEN": "[::1]:0",
        "BRIDGE_LOG_FORMAT": "json",
        "SENTRY_DSN": "https://key@sentry.example/1",
    }
    assert set(given) == {row.name for row in describe()}
    settings = load(**given)
    assert settings.redis_url == SecretStr("redis://h/1")
    assert settings.broker == SecretStr("amqp://h")
    assert settings.poll_schedule_ms == (1_000, 2_000)
    assert (settings.log_bytes, settings.max_backlog) == (500_000_000, 2_000)
    assert settings.callback_retry_ms == (5_000, 1_000)
    assert settings.allow_networks == (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    assert settings.allow_ports == (443, 8443)
    assert settings.allow_http
    assert [key.get_secret_value() for key in settings.secret_keys] == [bytes(range(32)), bytes(32)]
    assert settings.listen_address == ("::1", 0)
    unchanged = [name for name, value in settings if value == getattr(load(), name)]
    assert unchanged == []


def test_the_broker_is_the_store_unless_told_otherwise() -> None:
    assert load(BRIDGE_REDIS_URL="redis://h").broker == SecretStr("redis://h")


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("BRIDGE_CALLBACK_TIMEOUT", "45s", "45s is more than 30s; give a duration from 10ms to 30s"),
        ("BRIDGE_CALLBACK_TIMEOUT", "15", "'15' is not a duration; give a whole number and a unit"),
        ("BRIDGE_SHARDS", "0", "0 is too small; give a whole number from 1 to 256"),
        ("BRIDGE_SHARDS", "eight", "'eight' is not accepted; give a whole number"),
        ("BRIDGE_SHARDS", "1_0", "give a whole number"),
        ("BRIDGE_PROVIDER_RATE", "nan", "give calls a second, from 0.01 to 1000"),
        ("BRIDGE_PROVIDER_RATE", "0", "give calls a second"),
        ("BRIDGE_PROVIDER_URL", "api.ucloud.cn", "give an https:// or http:// URL"),
        ("BRIDGE_POLL_SCHEDULE", "10s,10s", "the ages must ascend"),
        ("BRIDGE_POLL_SCHEDULE", "10s,,", "empty place between commas"),
        ("BRIDGE_CALLBACK_RETRY", "1s," * 100 + "1s", "101 steps; give at most 100"),
        ("BRIDGE_ALLOW_NETWORKS", "10.0.0.1/8", "the address has bits beyond the prefix"),
        ("BRIDGE_ALLOW_NETWORKS", "intranet", "'intranet' is not a network; give CIDRs"),
        ("BRIDGE_ALLOW_PORTS", "443,0", "0 is no port"),
        ("BRIDGE_ALLOW_HTTP", "maybe", "'maybe' is neither yes nor no; give yes or no"),
        ("BRIDGE_LISTEN", "8080", "give HOST:PORT"),
        ("BRIDGE_LISTEN", "::1:8080", "give HOST:PORT"),
        ("BRIDGE_LISTEN", "h:99999", "give HOST:PORT"),
        ("BRIDGE_LOG_FORMAT", "xml", "'xml' is not accepted; give console or json"),
        ("BRIDGE_CALLBACK_CA_FILE", "/nowhere.pem", "/nowhere.pem is not a file"),
        ("BRIDGE_DATA_DIR", __file__, "is not a directory"),
        ("BRIDGE_REGION", "北京", "printable ASCII"),
        ("BRIDGE_REDIS_URL", "localhost:6379", "not a URL|is not supported"),
        ("BRIDGE_REDIS_URL", "redis://h/zero", "must be a database number"),
        ("BRIDGE_REDIS_URL", "amqp://h", "is not supported; give redis://HOST:PORT/DB"),
        ("BRIDGE_BROKER_URL", "kafka://h", "kafka:// is not supported"),
        ("BRIDGE_BROKER_URL", "sentinel://h:26379", r"needs the name of its group, as in .*\?master_name=NAME"),
        ("BRIDGE_SECRET_KEYS", "c2hvcnQ=", "key 1 has 5 bytes, not 32"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_is_accepted(variable: str, value: str, says: str) -> None:
    (line,) = mistakes(**{variable: value})
    assert line.startswith(f"{variable}: ")
    assert re.search(says, line)


def test_every_mistake_is_told_at_once() -> None:
    lines = mistakes(BRIDGE_SHARDS="0", BRIDGE_ALLOW_HTTP="maybe", BRIDGE_PUBLIC_KEY_FILE="/nowhere")
    assert [line.partition(":")[0] for line in lines] == [
        "BRIDGE_PUBLIC_KEY_FILE",
        "BRIDGE_SHARDS",
        "BRIDGE_ALLOW_HTTP",
    ]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BRIDGE_REDIS_URL", "redis://:hunter2@h:notaport/0"),
        ("BRIDGE_REDIS_URL", "http://:hunter2@h"),
        ("BRIDGE_REDIS_URL", "redis://:hunter2/x@h"),
        ("BRIDGE_BROKER_URL", "hunter2"),
        ("BRIDGE_PUBLIC_KEY", "hunter2 hunter2"),
        ("BRIDGE_PRIVATE_KEY", "hunter2 hunter2"),
        ("BRIDGE_SECRET_KEYS", f"{KEY},hunter2"),
        ("SENTRY_DSN", "https://hunter2"),
    ],
)
def test_a_mistake_in_a_secret_never_shows_it(variable: str, value: str) -> None:
    assert not any("hunter2" in line for line in mistakes(**{variable: value}))


def test_no_secret_shows_in_a_representation() -> None:
    settings = load(BRIDGE_REDIS_URL="redis://:hunter2@h", BRIDGE_SECRET_KEYS=KEY)
    assert "hunter2" not in repr(settings)
    assert repr(bytes(range(32))) not in repr(settings)


def test_one_provider_key_needs_the_other() -> None:
    assert mistakes(BRIDGE_PUBLIC_KEY="k") == [
        "BRIDGE_PRIVATE_KEY: not set, but BRIDGE_PUBLIC_KEY is; set both or none"
    ]


def test_a_variable_set_to_nothing_counts_as_unset() -> None:
    assert load(BRIDGE_REDIS_URL="", BRIDGE_SHARDS=" ", BRIDGE_SECRET_KEYS_FILE="") == load()


@pytest.mark.parametrize("row", [row for row in describe() if row.file_name], ids=lambda row: row.name)
def test_every_secret_can_be_read_from_a_file(row: object, tmp_path: Path) -> None:
    name = str(getattr(row, "name", ""))
    values = {"BRIDGE_SECRET_KEYS": KEY, "SENTRY_DSN": "https://k@h/1", "BRIDGE_PUBLIC_KEY": "k"}
    values |= {"BRIDGE_PRIVATE_KEY": "k", "BRIDGE_REDIS_URL": "redis://h", "BRIDGE_BROKER_URL": "redis://h"}
    others = {key: "k" for key in ("BRIDGE_PUBLIC_KEY", "BRIDGE_PRIVATE_KEY") if name.endswith(("C_KEY", "E_KEY"))}
    others.pop(name, None)
    file = tmp_path / "secret"
    file.write_text(values[name] + "\n")
    assert load(**{f"{name}_FILE": str(file)}, **others) == load(**{name: values[name]}, **others)
    assert mistakes(**{f"{name}_FILE": str(file), name: values[name]}, **others)[0] == (
        f"{name}: given, and {name}_FILE too; give one of them"
    )
    file.write_text("\n")
    assert mistakes(**{f"{name}_FILE": str(file)}, **others)[0] == (
        f"{name}_FILE: {file} is empty; put the value in it"
    )


def test_the_secrets_are_those_that_a_file_can_hold() -> None:
    assert [row.name for row in describe() if row.file_name] == [
        "BRIDGE_REDIS_URL",
        "BRIDGE_BROKER_URL",
        "BRIDGE_PUBLIC_KEY",
        "BRIDGE_PRIVATE_KEY",
        "BRIDGE_SECRET_KEYS",
        "SENTRY_DSN",
    ]


def test_the_environment_goes_before_the_env_file(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("BRIDGE_SHARDS=2\nexport BRIDGE_REGION='cn-bj2'\nPATH=x\nEMPTY\n")
    settings = load_settings({"BRIDGE_SHARDS": "3"}, env_file)
    assert (settings.shards, settings.region) == (3, "cn-bj2")
    assert read_environ({"A": "b"}, env_file)["BRIDGE_REGION"] == "cn-bj2"


def test_the_env_file_is_that_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings({}).shards == 8
    (tmp_path / ".env").write_text("BRIDGE_SHARDS=2\n")
    assert load_settings({}).shards == 2


def test_an_unreadable_env_file_is_a_clear_mistake(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_bytes(b"BRIDGE_REGION=\xff\n")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings({}, env_file)


def test_settings_made_in_python_ignore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_SHARDS", "2")
    monkeypatch.setenv("SHARDS", "2")
    assert Settings().shards == 8
    assert load_settings(env_file=None).shards == 2
    assert Settings(callback_timeout_ms=30_000, shards=4).shards == 4
    with pytest.raises(ValidationError, match="more than 30s"):
        Settings(callback_timeout_ms=30_001)


def test_an_unknown_setting_is_told_with_the_nearest() -> None:
    environ = dict.fromkeys(
        ["BRIDGE_SHARD", "BRIDGE_KEEP_SETLED", "BRIDGE_QQQQ", "BRIDGE_SHARDS", "BRIDGE_SECRET_KEYS_FILE", "PATH"], "1"
    )
    assert unknown_settings(environ) == [
        ("BRIDGE_KEEP_SETLED", "BRIDGE_KEEP_SETTLED"),
        ("BRIDGE_QQQQ", None),
        ("BRIDGE_SHARD", "BRIDGE_SHARDS"),
    ]


def test_what_kubernetes_injects_for_a_service_named_bridge_is_no_mistake() -> None:
    injected = ["BRIDGE_PORT", "BRIDGE_PORT_8080_TCP", "BRIDGE_PORT_8080_TCP_ADDR", "BRIDGE_SERVICE_HOST"]
    assert unknown_settings(dict.fromkeys(injected, "tcp://10.0.0.1:8080")) == []
    assert load(BRIDGE_PORT="tcp://10.0.0.1:8080") == load()


def test_every_setting_has_a_line_with_its_form_and_meaning() -> None:
    for row in describe():
        assert row.form
        assert row.meaning.endswith(".")
        assert f"| `{row.name}` |" in settings_table_markdown()
    assert all(line.count("|") == 5 for line in settings_table_markdown().splitlines())


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("redis://u:p%2F@h:1/2?ssl=1", "redis://u:p%2F@h:1/2?ssl=1"),
        ("rediss://h", "rediss://h"),
        ("valkey://valkey:1", "redis://valkey:1"),
        ("valkeys://h", "rediss://h"),
        ("unix:///run/valkey.sock?db=2", "unix:///run/valkey.sock?db=2"),
        ("redis+socket://:p@/run/valkey.sock?virtual_host=2", "unix://:p@/run/valkey.sock?db=2"),
        ("valkey+cluster://u:p%2F@h:1,h2,[::1]:3", "redis+cluster://u:p%2F@h:1,h2,[::1]:3"),
        ("valkeys+sentinel://h/mine/2", "rediss+sentinel://h/mine/2"),
        ("sentinel://:p@h:1;sentinel://h2?master_name=m", "sentinel://:p@h:1;sentinel://h2?master_name=m"),
    ],
)
def test_a_store_url_is_spelled_as_redis_reads_it(given: str, read: str) -> None:
    assert store_url(given) == read


@pytest.mark.parametrize(
    ("given", "read", "options"),
    [
        ("valkey://h:1/0", "redis://h:1/0", {}),
        ("redis://:p%2F@h?db=2", "redis://:p%2F@h/2", {}),
        ("rediss://h?ssl_ca_certs=/etc/ca.pem", "rediss://h?ssl_ca_certs=/etc/ca.pem", {}),
        ("unix:///run/v.sock?db=2", "redis+socket:///run/v.sock?virtual_host=2", {}),
        ("amqps://u:p@h//", "amqps://u:p@h//", {}),
        (
            "sentinel://a:1/0;sentinel://b:2/0?master_name=m",
            "sentinel://a:1/0;sentinel://b:2/0",
            {"master_name": "m"},
        ),
        ("redis+sentinel://u:p@a:1,b/m/2", "sentinel://u:p@a:1/2;sentinel://u:p@b:26379/2", {"master_name": "m"}),
        (
            "sentinel://:p@a;sentinel://b?master_name=m",
            "sentinel://:p@a:26379/0;sentinel://:p@b:26379/0",
            {"master_name": "m"},
        ),
        (
            "redis+sentinel://a/m?sentinel_username=u&sentinel_password=p%2F",
            "sentinel://a:26379/0",
            {
                "master_name": "m",
                "sentinel_kwargs": {
                    "username": "u",
                    "password": "p/",
                    "socket_timeout": 5,
                    "socket_connect_timeout": 5,
                },
            },
        ),
    ],
)
def test_a_broker_url_is_spelled_as_kombu_reads_it(given: str, read: str, options: dict[str, object]) -> None:
    address = broker_address(given)
    assert (address.url, address.transport_options) == (read, options)


def test_tls_is_told_to_kombu_apart_from_the_url_of_sentinels() -> None:
    address = broker_address("rediss+sentinel://:p@a:1/m?ssl_ca_certs=/etc/ca.pem")
    assert address.url == "sentinel://:p@a:1/0"
    assert address.ssl == {"ssl_cert_reqs": "required", "ssl_ca_certs": "/etc/ca.pem"}
    sentinels = address.transport_options["sentinel_kwargs"]
    assert isinstance(sentinels, dict)
    assert sentinels.items() >= {"ssl": True, "ssl_ca_certs": "/etc/ca.pem"}.items()


@pytest.mark.parametrize(
    ("url", "server", "cluster", "sentinels", "group"),
    [
        ("redis://h:1/2", "redis://h:1/2", (), (), ""),
        ("redis+cluster://u:p%2F@a:1,b,[::1]:3/0", "redis://u:p%2F@a:1/0", (("a", 1), ("b", 6379), ("::1", 3)), (), ""),
        ("rediss+cluster://a?ssl_ca_certs=/c.pem", "rediss://a:6379/0?ssl_ca_certs=/c.pem", (("a", 6379),), (), ""),
        ("redis+sentinel://:p@a,b:2/mine/3", "redis://:p@a:26379/3", (), (("a", 26379), ("b", 2)), "mine"),
        ("sentinel://:p@a;sentinel://b:2/3?master_name=m", "redis://:p@a:26379/3", (), (("a", 26379), ("b", 2)), "m"),
    ],
)
def test_a_store_url_says_which_servers_are_asked(
    url: str, server: str, cluster: tuple[Host, ...], sentinels: tuple[Host, ...], group: str
) -> None:
    address = store_address(store_url(url))
    assert (address.url, address.cluster, address.sentinels, address.group) == (server, cluster, sentinels, group)


_NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12).filter(lambda one: one[0].isalpha())
_HOSTS = st.lists(st.tuples(_NAMES, st.integers(1, 65_535)), min_size=1, max_size=5)


@given(_HOSTS, st.text(min_size=1, max_size=20), _NAMES)
def test_whatever_the_password_is_the_hosts_are_read(hosts: list[tuple[str, int]], password: str, group: str) -> None:
    listed = ",".join(f"{name}:{port}" for name, port in hosts)
    cluster = store_address(f"redis+cluster://:{quote(password, safe='')}@{listed}")
    watched = store_address(f"redis+sentinel://:{quote(password, safe='')}@{listed}/{group}")
    assert (cluster.cluster, watched.sentinels, watched.group) == (tuple(hosts), tuple(hosts), group)
    for address in (cluster, watched):
        assert unquote(urlsplit(address.url).password or "") == password


@pytest.mark.parametrize("scheme", ["redis+cluster", "redis+sentinel", "sentinel"])
def test_a_password_that_is_not_encoded_is_refused_and_not_shown(scheme: str) -> None:
    with pytest.raises(ValueError, match=r"give|needs") as caught:
        store_address(f"{scheme}://:hunter2/x@h:1/m")
    assert "hunter2" not in str(caught.value)


def test_a_cluster_cannot_be_the_broker_and_the_start_says_what_to_set() -> None:
    (line,) = mistakes(BRIDGE_REDIS_URL="redis+cluster://h:1,h2:2")
    assert line.startswith("BRIDGE_BROKER_URL: not set, and BRIDGE_REDIS_URL cannot stand for it: Celery cannot use")
    assert load(BRIDGE_REDIS_URL="redis+cluster://h:1", BRIDGE_BROKER_URL="redis://h:2").broker is not None


@pytest.mark.parametrize(
    "url",
    ["redis+cluster://", "redis+cluster://h:0", "redis+cluster://h/3", "redis+cluster://h,", "redis+sentinel://h"],
)
def test_an_incomplete_store_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"give|leave|needs"):
        store_url(url)


@pytest.mark.parametrize(
    "url", ["unix://", "redis://", "redis://h:0", "redis://[", "amqp://", "sentinel://a;redis://b"]
)
def test_an_incomplete_broker_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"give|must"):
        broker_address(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:p@ss@h:1/2?password=x", "redis://h:1/2"),
        ("sentinel://:p@a:1;sentinel://:p@b:1", "sentinel://a:1;sentinel://b:1"),
        ("redis+cluster://:p@a:1,b:2/0", "redis+cluster://a:1,b:2/0"),
        ("hunter2", "an unreadable URL"),
        ("redis://[", "an unreadable URL"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert safe_url(url) == shown
