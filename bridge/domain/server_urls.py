"""URLs of the store and of the broker: what is accepted, and the spelling that redis-py and kombu understand.

Standard library only, because senders read a broker's URL too. Messages never quote a URL: it may hold a password.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

# kombu has no valkey transport, and its redis one refuses the scheme; the protocol is the same.
_VALKEY = {"valkey": "redis", "valkeys": "rediss"}
_SOCKETS = ("unix", "redis+socket")
_OTHERS = frozenset(
    [
        "amqp",
        "amqps",
        "pyamqp",
        "kafka",
        "sqs",
        "http",
        "https",
        "tcp",
        "file",
        "memcached",
        "mongodb",
        "postgresql",
        "mysql",
    ]
)
_CLUSTERS = {f"{scheme}+cluster": scheme for scheme in ("redis", "rediss", "valkey", "valkeys")}
_SENTINELS = {f"{scheme}+sentinel": scheme for scheme in ("redis", "rediss", "valkey", "valkeys")}
_SERVER_PORT, _SENTINEL_PORT = 6379, 26379
_SENTINEL_FORM = (
    "redis+sentinel://HOST:PORT,HOST:PORT/NAME/DB or sentinel://HOST:PORT;sentinel://HOST:PORT?master_name=NAME"
)
_STORE_FORM = (
    "redis://HOST:PORT/DB, rediss:// (TLS), valkey://, valkeys://, unix:///PATH, redis+cluster://HOST:PORT,HOST:PORT, "
    f"{_SENTINEL_FORM}"
)
_BROKER_FORM = (
    f"redis://HOST:PORT/DB, rediss:// (TLS), valkey://, valkeys://, unix:///PATH, {_SENTINEL_FORM}, amqp:// or amqps://"
)
_SENTINEL_TIMEOUT_S = 5

NO_CLUSTER = (
    "Celery cannot use a cluster as its broker; set BRIDGE_BROKER_URL to a single Redis or Valkey, to one behind "
    "Sentinel, or to RabbitMQ"
)

Host = tuple[str, int]
"""A name or an IP address, and a port."""


@dataclass(frozen=True, kw_only=True)
class BrokerAddress:
    """A broker as kombu wants it: its URL (or several, with ``;`` between), transport options, and TLS ones.

    ``ssl`` is empty where the URL's scheme says it all.
    """

    url: str
    transport_options: Mapping[str, object] = field(default_factory=dict)
    ssl: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_redis(self) -> bool:
        return self.url.startswith(("redis", "sentinel"))

    @property
    def queue_arguments(self) -> Mapping[str, object] | None:
        """What the bridge's queues are declared with, by workers and senders alike: RabbitMQ refuses a difference.

        Quorum queues outlive the loss of a RabbitMQ node. Nothing more is said, because that is all that a setting
        of Celery's makes another team's app say.
        """
        return None if self.is_redis else {"x-queue-type": "quorum"}


@dataclass(frozen=True, kw_only=True)
class StoreAddress:
    """A store as redis-py wants it.

    ``url`` is a server's: of a cluster the first one's, behind Sentinel one that only stands for credentials, database
    and options. ``cluster`` are the nodes of a cluster that are asked first; ``sentinels`` those that know where the
    master of ``group`` is, ``sentinel_login`` what they themselves ask for.
    """

    url: str
    cluster: tuple[Host, ...] = ()
    sentinels: tuple[Host, ...] = ()
    group: str = ""
    sentinel_login: Mapping[str, str] = field(default_factory=dict)


def store_url(text: str) -> str:
    """The URL of a store, Valkey's schemes spelled as Redis'. Raises ValueError, saying what is accepted."""
    url = text.strip()
    address = store_address(url)
    if not address.cluster and not address.sentinels:
        return address.url
    scheme, plus, rest = url.partition("+")
    return f"{_VALKEY.get(scheme, scheme)}{plus}{rest}"


def store_address(text: str) -> StoreAddress:
    """What a store's URL means to redis-py. Raises ValueError, saying what is accepted."""
    url = text.strip()
    scheme = url.partition("://")[0]
    if scheme in _CLUSTERS:
        return _cluster(url, _CLUSTERS[scheme])
    if scheme in _SENTINELS or scheme == "sentinel":
        return _Sentinels.read(url).store()
    parts = _parts(url, _STORE_FORM)
    if parts.scheme in _SOCKETS:
        return StoreAddress(url=_socket_url("unix", "db", parts))
    scheme = _VALKEY.get(parts.scheme, parts.scheme)
    if scheme not in ("redis", "rediss"):
        raise ValueError(f"{_scheme_shown(parts.scheme)} is not supported; give {_STORE_FORM}")
    _check_database(parts.path.strip("/"))
    return StoreAddress(url=scheme + url[len(parts.scheme) :])


def _scheme_shown(scheme: str) -> str:
    # What stands before the first colon of a text that is no URL may be a password.
    return f"the scheme {scheme}://" if scheme in _OTHERS else "its scheme"


def broker_address(text: str) -> BrokerAddress:
    """A Celery broker's URL as kombu reads it. Raises ValueError, saying what is accepted."""
    url = text.strip()
    scheme = url.partition("://")[0]
    if scheme in _CLUSTERS:
        raise ValueError(NO_CLUSTER)
    if scheme in _SENTINELS or scheme == "sentinel":
        return _Sentinels.read(url).broker()
    parts = _parts(url, _BROKER_FORM)
    if parts.scheme in ("amqp", "amqps", "pyamqp"):
        return BrokerAddress(url=url)
    if parts.scheme in _SOCKETS:
        return BrokerAddress(url=_socket_url("redis+socket", "virtual_host", parts))
    if _VALKEY.get(parts.scheme, parts.scheme) not in ("redis", "rediss"):
        raise ValueError(f"{_scheme_shown(parts.scheme)} is not supported; give {_BROKER_FORM}")
    return BrokerAddress(url=_celery_redis_url(store_url(url)))


def safe_url(url: str) -> str:
    """A server's URL fit for a message or a log: scheme, host, port and path, without user, password and query."""
    return ";".join(_safe(part) for part in url.strip().split(";"))


def _safe(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "an unreadable URL"
    return f"{parts.scheme}://{host}{parts.path}" if parts.scheme else "an unreadable URL"


def _parts(url: str, form: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        whole = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        raise ValueError(f"the URL has no valid host and port; give {form}") from None
    if "://" not in url:
        raise ValueError(f"not a URL; give {form}")
    if parts.scheme in _SOCKETS:
        if parts.path in ("", "/"):
            raise ValueError("the URL names no socket; give unix:///PATH with three slashes")
    elif not whole:
        # A "/", "?" or "#" in a password ends the host part early, which looks just like a missing host.
        raise ValueError(f"the URL has no valid host and port (a password must be percent-encoded); give {form}")
    return parts


def _socket_url(scheme: str, database_name: str, parts: SplitResult) -> str:
    query = dict(parse_qsl(parts.query))
    database = query.pop("db", None) or query.pop("virtual_host", None)
    if database is not None:
        query[database_name] = database
    ending = f"?{urlencode(query)}" if query else ""
    return f"{scheme}://{parts.netloc}{quote(parts.path, safe='/%')}{ending}"


def _celery_redis_url(url: str) -> str:
    # kombu hands options on to a constructor that refuses what it does not know with a TypeError.
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    database = query.pop("db", "")
    _check_celery_options(query)
    path = parts.path if parts.path.strip("/") or not database else f"/{database}"
    return parts._replace(path=path, query=urlencode(query, safe="/")).geturl()


def _check_database(path: str) -> None:
    if path and not (path.isascii() and path.isdigit()):
        raise ValueError("the path of the URL must be a database number, such as /0")


def _pieces(url: str) -> tuple[str, str, str, dict[str, str]]:
    """Login, hosts, path and options of a URL that may name several hosts, which urlsplit does not know."""
    rest = url.partition("://")[2]
    end = min((place for mark in "/?#" if (place := rest.find(mark)) >= 0), default=len(rest))
    login, _, hosts = rest[:end].rpartition("@")
    tail = urlsplit(f"//host{rest[end:]}")
    return login, hosts, tail.path.strip("/"), dict(parse_qsl(tail.query))


def _hosts(text: str, default_port: int, form: str) -> tuple[Host, ...]:
    found: list[Host] = []
    for one in text.split(","):
        try:
            parts = urlsplit(f"//{one.strip()}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or port == 0:
            raise ValueError(f"the URL has no valid host and port (a password must be percent-encoded); give {form}")
        found.append((host, port or default_port))
    return tuple(found)


def _server_url(scheme: str, login: str, host: Host, database: str, options: Mapping[str, str]) -> str:
    name = f"[{host[0]}]" if ":" in host[0] else host[0]
    query = f"?{urlencode(options, safe='/')}" if options else ""
    return f"{scheme}://{login}{'@' if login else ''}{name}:{host[1]}/{database or '0'}{query}"


def _cluster(url: str, scheme: str) -> StoreAddress:
    login, hosts, database, options = _pieces(url)
    nodes = _hosts(hosts, _SERVER_PORT, "redis+cluster://HOST:PORT,HOST:PORT")
    _check_database(database)
    if database.strip("0") or options.pop("db", "0").strip("0"):
        raise ValueError("a cluster has database 0 alone; leave the path of the URL out")
    server = _server_url(_VALKEY.get(scheme, scheme), login, nodes[0], "", options)
    return StoreAddress(url=server, cluster=nodes)


@dataclass(frozen=True, kw_only=True)
class _Sentinels:
    """A URL that names Sentinels, of either form. ``login`` is for the server that they watch, as it stands there."""

    scheme: str
    login: str
    hosts: tuple[Host, ...]
    group: str
    database: str
    sentinel_login: Mapping[str, str]
    options: Mapping[str, str]

    @classmethod
    def read(cls, url: str) -> _Sentinels:
        """Raises ValueError, saying what is accepted."""
        scheme = url.partition("://")[0]
        if scheme == "sentinel":
            scheme, login, hosts, path, options = "redis", *_kombu_pieces(url)
            group = options.pop("master_name", "")
        else:
            scheme = _SENTINELS[scheme]
            login, hosts, path, options = _pieces(url)
            group, _, path = path.partition("/")
            group = unquote(group)
        sentinels = _hosts(hosts, _SENTINEL_PORT, _SENTINEL_FORM)
        if not group:
            raise ValueError(f"Sentinel needs the name of its group, as in {_SENTINEL_FORM}")
        _check_database(path)
        return cls(
            scheme=_VALKEY.get(scheme, scheme),
            login=login,
            hosts=sentinels,
            group=group,
            database=path,
            sentinel_login={
                name: options.pop(f"sentinel_{name}")
                for name in ("username", "password")
                if f"sentinel_{name}" in options
            },
            options=options,
        )

    def store(self) -> StoreAddress:
        """Its form for redis-py."""
        return StoreAddress(
            url=_server_url(self.scheme, self.login, self.hosts[0], self.database, self.options),
            sentinels=self.hosts,
            group=self.group,
            sentinel_login=self.sentinel_login,
        )

    def broker(self) -> BrokerAddress:
        """Its form for kombu, which takes all but hosts, login and database as transport options."""
        _check_celery_options(self.options)
        ssl = {"ssl_cert_reqs": "required", **self.options} if self.scheme == "rediss" else {}
        transport_options: dict[str, object] = {"master_name": self.group}
        if self.sentinel_login or ssl:
            transport_options["sentinel_kwargs"] = {
                **self.sentinel_login,
                **({"ssl": True, **ssl} if ssl else {}),
                "socket_timeout": _SENTINEL_TIMEOUT_S,
                "socket_connect_timeout": _SENTINEL_TIMEOUT_S,
            }
        urls = [_server_url("sentinel", self.login, host, self.database, {}) for host in self.hosts]
        return BrokerAddress(url=";".join(urls), transport_options=transport_options, ssl=ssl)


def _kombu_pieces(url: str) -> tuple[str, str, str, dict[str, str]]:
    """As ``_pieces``, of kombu's form: one URL a Sentinel. The login is the first one's, the rest anyone's."""
    login, hosts, path = "", [], ""
    options: dict[str, str] = {}
    for text in url.split(";"):
        if not text.strip().startswith("sentinel://"):
            raise ValueError("a list of Sentinels must have sentinel:// before each")
        its_login, host, its_path, its_options = _pieces(text.strip())
        login, path = login or its_login, path or its_path
        hosts.append(host)
        options |= its_options
    return login, ",".join(hosts), path, options


def _check_celery_options(options: Mapping[str, str]) -> None:
    """Names are not repeated: behind a "?" in a password that was not percent-encoded, they are a part of it."""
    if any(not option.startswith("ssl_") for option in options):
        raise ValueError("the URL has an option that Celery does not know; leave it out (ssl_… and db are read)")
