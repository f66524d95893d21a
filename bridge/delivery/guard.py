"""Which URLs the bridge may call, and which addresses it may connect to.

A URL is checked when it is given, so that its owner hears at once what is wrong, and again before each attempt. The
decision that protects is the one on the address being connected to (``address_refusal``): a name may answer anything.
The grammar is narrower than RFC 3986 on purpose: what two parsers could read differently is refused.
"""

from __future__ import annotations

import re
import socket
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import msgspec

from bridge.errors import InvalidUrl

MAX_URL = 2_048  # bytes; printable ASCII only, so characters too

Network = IPv4Network | IPv6Network
# The part of socket.getaddrinfo that is used here: (host, port) to rows whose fifth field is the socket address.
Resolve = Callable[[str, int], Iterable[tuple[object, object, object, object, tuple[object, ...]]]]

# Databases, queues and coordinators that listen on an unprivileged port and would make sense of a POST, or be harmed
# by one. None above 32,767: there the kernel hands out ephemeral ports.
DATABASE_PORTS = frozenset(
    {1433, 1434, 1521, 1830, 2181, 2375, 2376, 2379, 2380, 3050, 3306, 4369, 5432, 5433, 5671, 5672, 5984, 6379, 6380}
    | {6381, 6432, 7000, 7001, 7199, 7474, 7687, 8086, 8529, 9042, 9092, 9160, 9200, 9300, 11211, 15672, 16379, 25672}
    | {26257, 26379, 27017, 27018, 27019, 28015}
)


class UrlPolicy(msgspec.Struct, frozen=True):
    """What the operator allows beyond the default.

    ``allow_http``: plain http as well as https. ``allow_networks``: addresses to be called although they would be
    refused, exactly these and no form that is translated to them. ``allow_ports``: the only ports, or None for 80,
    443, and 1024 and up without the well-known database ports.
    """

    allow_http: bool = False
    allow_networks: tuple[Network, ...] = ()
    allow_ports: frozenset[int] | None = None


class Target(msgspec.Struct, frozen=True):
    """A URL that passed. ``url`` is as to be sent; ``host`` lower case, an IPv6 address without its brackets."""

    url: str
    scheme: str
    host: str
    port: int


# First match wins, so a single address stands before the range it lies in.
_REFUSED: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(network), reason)
    for reason, networks in (
        # The instance metadata of AWS, Google, Azure (also its wire server), ECS, EKS, Alibaba, Tencent and Oracle.
        ("metadata", "169.254.169.254/32 169.254.170.2/32 169.254.170.23/32 169.254.0.23/32 100.100.100.200/32"),
        ("metadata", "168.63.129.16/32 192.0.0.192/32 fd00:ec2::254/128 fd00:ec2::23/128 fd20:ce::254/128"),
        ("loopback", "127.0.0.0/8 ::1/128"),
        ("private", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7 fec0::/10"),
        ("link-local", "169.254.0.0/16 fe80::/10"),
        ("CGNAT", "100.64.0.0/10"),
        ("multicast", "224.0.0.0/4 ff00::/8"),
        ("documentation", "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20"),
        # IPv4 inside IPv6, to be routed by someone else: NAT64 (RFC 6052, 8215), 6to4 and its relay, Teredo.
        ("translated", "64:ff9b::/96 64:ff9b:1::/48 2002::/16 2001::/32 192.88.99.0/24"),
        # RFC 4291 2.5.5, 2765: the kernel connects to the IPv4 address in the last 32 bits. ``::`` is taken as ::1.
        ("unspecified", "0.0.0.0/32 ::/128"),
        ("mapped", "::ffff:0:0/96 ::ffff:0:0:0/96 ::/96"),
        ("reserved", "0.0.0.0/8 192.0.0.0/24 198.18.0.0/15 240.0.0.0/4 100::/64 100:0:0:1::/64 2001::/23 5f00::/16"),
    )
    for network in networks.split()
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # everything IANA gave out so far; what lies outside is unassigned

# Names that mean an address without asking DNS, or that only ever name the host itself or its metadata.
_LOOPBACK = ("127.0.0.1", "::1")
_METADATA = ("169.254.169.254", "fd00:ec2::254")
_NAMES: dict[str, tuple[str, tuple[str, ...]]] = {
    "localhost": ("loopback", _LOOPBACK),
    "localdomain": ("loopback", _LOOPBACK),
    "ip6-localhost": ("loopback", _LOOPBACK),
    "ip6-loopback": ("loopback", _LOOPBACK),
    "metadata": ("metadata", _METADATA),
    "metadata.google.internal": ("metadata", _METADATA),
    "metadata.goog": ("metadata", _METADATA),
    "metadata.azure.internal": ("metadata", _METADATA),
    "metadata.tencentyun.com": ("metadata", ("169.254.0.23",)),
    "instance-data": ("metadata", _METADATA),
    "instance-data.ec2.internal": ("metadata", _METADATA),
}

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,31})://([^/?]*)(.*)")
_BRACKETED = re.compile(r"\[([0-9a-f]*:[0-9a-f:.]*)\](?::([0-9]+))?")
_PLAIN = re.compile(r"([^:\[\]]+)(?::([0-9]+))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # a last label that makes inet_aton read the whole name as an address
_ENCODED_CONTROL = re.compile(r"%(?:00|0[ad])", re.IGNORECASE)


def parse_url(url: str, policy: UrlPolicy) -> Target:
    """The callback URL as it will be called, or InvalidUrl saying what is wrong and what to do.

    Nothing is resolved. Scheme and host are lower-cased and an empty path becomes ``/``; the rest stays byte for byte.
    A message names the scheme, host or port at most: never user information, path or query, which may be secret.
    """
    scheme, authority, rest = _split(url)
    if scheme == "http" and not policy.allow_http:
        raise InvalidUrl("a callback URL must use https: http is off without BRIDGE_ALLOW_HTTP=yes", "scheme")
    if scheme not in {"http", "https"}:
        raise InvalidUrl(f"a callback URL must use https, not {scheme}", "scheme")
    host, port_text = _host_and_port(authority)
    port = _port(port_text, scheme, policy)
    _check_host(host, policy)
    path = rest if rest.startswith("/") else "/" + rest
    return Target(f"{scheme}://{authority}{path}", scheme, host, port)


def _split(url: str) -> tuple[str, str, str]:
    """Scheme and authority, both lower case, and the rest."""
    if len(url) > MAX_URL:
        raise InvalidUrl(f"a callback URL may have {MAX_URL} characters, this has {len(url)}: shorten it", "too long")
    if not url.isascii():
        raise InvalidUrl(
            "a callback URL may hold ASCII only: write the host in its xn-- form and percent-encode the rest",
            "not ASCII",
        )
    if any(not "!" <= char <= "~" for char in url):
        raise InvalidUrl("a callback URL may hold no space or control character: percent-encode it", "control")
    if "\\" in url:
        raise InvalidUrl("a callback URL may hold no backslash: write / or %5C", "backslash")
    if "#" in url:
        raise InvalidUrl("a callback URL may have no fragment: remove # and what follows", "fragment")
    if _ENCODED_CONTROL.search(url):
        raise InvalidUrl("a callback URL may hold no encoded NUL, CR or LF: remove it", "control")
    match = _URL.fullmatch(url)
    if match is None:
        raise InvalidUrl("this is no absolute URL: write https://host/path", "not a URL")
    scheme, authority, rest = match.groups()
    return scheme.lower(), authority.lower(), rest


def _host_and_port(authority: str) -> tuple[str, str | None]:
    if "@" in authority:
        raise InvalidUrl(
            "a callback URL may hold no user name or password: remove what stands before @; callbacks are signed",
            "userinfo",
        )
    if not authority or authority.startswith(":"):
        raise InvalidUrl("the callback URL has no host: write https://host/path", "no host")
    if "%" in authority:
        raise InvalidUrl("the host of a callback URL may not be percent-encoded, nor have a zone", "encoded host")
    match = (_BRACKETED if authority.startswith("[") else _PLAIN).fullmatch(authority)
    if match is None:
        raise InvalidUrl("the callback URL's host and port cannot be read: write https://host:port/path", "not a URL")
    host, port = match.groups()
    return host, port


def _port(text: str | None, scheme: str, policy: UrlPolicy) -> int:
    if text is None:
        port = 443 if scheme == "https" else 80
    elif text.startswith("0") or len(text) > 5 or int(text) > 65_535:
        raise InvalidUrl("the callback URL's port must be a number from 1 to 65535, without leading zeros", "port")
    else:
        port = int(text)
    if policy.allow_ports is not None:
        allowed, hint = port in policy.allow_ports, "the operator lists the ports that are"
    else:
        allowed = port in {80, 443} or (port >= 1024 and port not in DATABASE_PORTS)
        hint = "use 443, 80, or one from 1024 up that no well-known database uses"
    if not allowed:
        raise InvalidUrl(f"port {port} is not allowed for callbacks: {hint}", "port")
    return port


def _check_host(host: str, policy: UrlPolicy) -> None:
    """Refuse an address that is refused or oddly written, and a name that cannot or must not be resolved."""
    if ":" in host or _NUMBER.fullmatch(host.rpartition(".")[2]):
        try:
            refusal = address_refusal(str(ip_address(host)), policy)
        except ValueError:
            # inet_aton, and so libcurl, reads 127.1, 0177.0.0.1 and 2130706433 as addresses too.
            raise InvalidUrl("the callback URL's host is no plain address: write all parts", "odd address") from None
        if refusal is not None:
            raise _refused(host, refusal)
        return
    if host.endswith("."):
        raise InvalidUrl("the callback URL's host ends in a dot: remove it", "trailing dot")
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidUrl(
            "the callback URL's host is no valid name: letters, digits and hyphens, 63 a label, 253 in all", "bad name"
        )
    if not all(_honest(label) for label in labels):
        raise InvalidUrl("the callback URL's host has an xn-- label that is no valid IDNA", "bad name")
    # All of .localhost is loopback (RFC 6761, 6.3); the other names stand for themselves.
    name = labels[-1] if labels[-1] in {"localhost", "localdomain"} else host
    reason, addresses = _NAMES.get(name, ("", ()))
    if reason and all(address_refusal(address, policy) for address in addresses):
        raise _refused(host, reason)


def _honest(label: str) -> bool:
    """Whether an xn-- label decodes to something that needed encoding: not to ASCII, nor to full-width digits."""
    if not label.startswith("xn--"):
        return True
    try:
        decoded = label[4:].encode("ascii").decode("punycode")
    except UnicodeError:
        return False
    return not decoded.isascii() and unicodedata.normalize("NFKC", decoded).casefold() == decoded


def _refused(host: str, reason: str) -> InvalidUrl:
    return InvalidUrl(
        f"the callback URL's host {host} has a {reason} address: use a public one, or ask the operator to list its "
        "network in BRIDGE_ALLOW_NETWORKS",
        f"{reason} address",
    )


@lru_cache(maxsize=4096)
def address_refusal(ip_text: str, policy: UrlPolicy) -> str | None:
    """Why this address must not be connected to, in a word or two, or None where it may.

    ``ip_text`` is a numeric address as inet_ntop writes it; anything else is refused, not raised. A listed network
    opens itself only: with 127.0.0.0/8 listed, ::ffff:127.0.0.1 stays refused. Cached: it is asked at every connect.
    """
    try:
        address = ip_address(ip_text)
    except ValueError:
        return "unreadable"
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return "link-local"
    if any(_holds(network, address) for network in policy.allow_networks):
        return None
    for network, reason in _REFUSED:
        if _holds(network, address):
            return reason
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return "reserved"
    return None


def _holds(network: Network, address: IPv4Address | IPv6Address) -> bool:
    return network.version == address.version and address in network


def check_resolved(target: Target, policy: UrlPolicy, resolve: Resolve = socket.getaddrinfo) -> str | None:
    """Resolve a URL that is being registered and refuse it if any of its addresses is refused.

    Blocks for as long as the resolver takes. Raises InvalidUrl. Returns a note for the operator where the name does
    not resolve, else None: a URL may be registered before its name exists, since every attempt checks the address
    again.
    """
    try:
        found = [str(row[4][0]) for row in resolve(target.host, target.port)]
    except OSError:
        found = []
    for address in found:
        refusal = address_refusal(address, policy)
        if refusal is not None:
            raise _refused(target.host, refusal)
    if not found:
        return f"{target.host} does not resolve yet; callbacks will be tried, and their address checked, all the same"
    return None
