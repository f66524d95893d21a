"""URLs of the store and of the broker: what is accepted, and the spelling that redis-py and kombu understand.

Standard library only, because senders read a broker's URL too. Messages never quote a URL: it may hold a password.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

# kombu has no valkey transport, and its redis one refuses the scheme; the protocol is the same.
_VALKEY = {"valkey": "redis", "valkeys": "rediss"}
_SOCKETS = ("unix", "redis+socket")
_STORE_FORM = "redis://HOST:PORT/DB, rediss:// (TLS), valkey://, valkeys:// or unix:///PATH"
_BROKER_FORM = f"{_STORE_FORM}, sentinel://HOST:PORT?master_name=NAME, amqp:// or amqps://"


@dataclass(frozen=True, kw_only=True)
class BrokerAddress:
    """A broker as kombu wants it: its URL (or several, with ``;`` between) and its transport options."""

    url: str
    transport_options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_redis(self) -> bool:
        return self.url.startswith(("redis", "sentinel"))


def store_url(text: str) -> str:
    """A Redis or Valkey URL as redis-py reads it. Raises ValueError, saying what is accepted."""
    url = text.strip()
    parts = _parts(url, _STORE_FORM)
    if parts.scheme in _SOCKETS:
        return _socket_url("unix", "db", parts)
    scheme = _VALKEY.get(parts.scheme, parts.scheme)
    if scheme not in ("redis", "rediss"):
        raise ValueError(f"the scheme {parts.scheme[:20]}:// is not supported; give {_STORE_FORM}")
    database = parts.path.strip("/")
    if database and not (database.isascii() and database.isdigit()):
        raise ValueError("the path of the URL must be a database number, such as /0")
    return url.replace(parts.scheme, scheme, 1)


def broker_address(text: str) -> BrokerAddress:
    """A Celery broker's URL as kombu reads it. Raises ValueError, saying what is accepted."""
    url = text.strip()
    parts = _parts(url.partition(";")[0], _BROKER_FORM)
    if parts.scheme == "sentinel":
        return _sentinel_address(url)
    if parts.scheme in ("amqp", "amqps", "pyamqp"):
        return BrokerAddress(url=url)
    if parts.scheme in _SOCKETS:
        return BrokerAddress(url=_socket_url("redis+socket", "virtual_host", parts))
    if _VALKEY.get(parts.scheme, parts.scheme) not in ("redis", "rediss"):
        raise ValueError(f"the scheme {parts.scheme[:20]}:// is not supported; give {_BROKER_FORM}")
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
    unknown = [option for option in query if not option.startswith("ssl_")]
    if unknown:
        raise ValueError(
            f"Celery knows no option {unknown[0][:40]!r} of a Redis URL; leave it out (ssl_… and db are read)"
        )
    path = parts.path if parts.path.strip("/") or not database else f"/{database}"
    return parts._replace(path=path, query=urlencode(query, safe="/")).geturl()


def _sentinel_address(url: str) -> BrokerAddress:
    # kombu takes the group's name as a transport option alone; a setting has only a URL to say it in.
    servers, master_name = [], ""
    for text in url.split(";"):
        parts = _parts(text.strip(), _BROKER_FORM)
        if parts.scheme != "sentinel":
            raise ValueError("a list of Sentinels must have sentinel:// before each")
        master_name = dict(parse_qsl(parts.query)).get("master_name", master_name)
        servers.append(parts._replace(query="").geturl())
    if not master_name:
        raise ValueError("Sentinel needs the name of its group; add ?master_name=NAME to the URL")
    return BrokerAddress(url=";".join(servers), transport_options={"master_name": master_name})
