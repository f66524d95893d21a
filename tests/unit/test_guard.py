"""Every way to make the bridge call what it must not, and what stays allowed."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.delivery.guard import (
    DATABASE_PORTS,
    MAX_URL,
    Resolve,
    Target,
    UrlPolicy,
    address_refusal,
    check_resolved,
    parse_url,
)
from bridge.errors import InvalidUrl

HTTP = UrlPolicy(allow_http=True)
SECRET = "hunter2"  # noqa: S105  # a stand-in that must not be repeated

REFUSED_LITERALS = {
    "127.0.0.1": "loopback address",
    "127.255.255.254": "loopback address",
    "0.0.0.0": "unspecified address",  # noqa: S104  # refused, not bound
    "0.1.2.3": "reserved address",
    "[::]": "unspecified address",
    "[::1]": "loopback address",
    "[0000:0000:0000:0000:0000:0000:0000:0001]": "loopback address",
    "[0:0:0:0:0:0:0:1]": "loopback address",
    "[::ffff:127.0.0.1]": "mapped address",
    "[::ffff:7f00:1]": "mapped address",
    "[::FFFF:8.8.8.8]": "mapped address",
    "[::127.0.0.1]": "mapped address",
    "[64:ff9b::7f00:1]": "translated address",
    "[64:ff9b::127.0.0.1]": "translated address",
    "[64:ff9b:1::7f00:1]": "translated address",
    "[2002:7f00:1::]": "translated address",
    "[2001:0:4136:e378:8000:63bf:3fff:fdd2]": "translated address",
    "[fe80::1]": "link-local address",
    "[fec0::1]": "private address",
    "[fc00::1]": "private address",
    "[fd12:3456::1]": "private address",
    "[fd00:ec2::254]": "metadata address",
    "[ff02::1]": "multicast address",
    "[100::1]": "reserved address",
    "[2001:db8::1]": "documentation address",
    "[3fff::1]": "documentation address",
    "[5f00::1]": "reserved address",
    "[4000::1]": "reserved address",
    "10.0.0.1": "private address",
    "172.16.0.1": "private address",
    "172.31.255.255": "private address",
    "192.168.1.1": "private address",
    "100.64.0.1": "CGNAT address",
    "100.127.255.255": "CGNAT address",
    "100.100.100.200": "metadata address",
    "169.254.1.1": "link-local address",
    "169.254.169.254": "metadata address",
    "169.254.170.2": "metadata address",
    "168.63.129.16": "metadata address",
    "192.0.0.1": "reserved address",
    "192.0.0.192": "metadata address",
    "192.0.2.1": "documentation address",
    "198.18.0.1": "reserved address",
    "198.19.255.255": "reserved address",
    "198.51.100.7": "documentation address",
    "203.0.113.9": "documentation address",
    "192.88.99.1": "translated address",
    "224.0.0.1": "multicast address",
    "239.255.255.255": "multicast address",
    "240.0.0.1": "reserved address",
    "255.255.255.255": "reserved address",
    # How else inet_aton, and so libcurl, may be told an address.
    "127.1": "odd address",
    "127.0.1": "odd address",
    "2130706433": "odd address",
    "0x7f000001": "odd address",
    "0X7F000001": "odd address",
    "0x7f.0.0.1": "odd address",
    "127.0.0.0x1": "odd address",
    "0177.0.0.1": "odd address",
    "127.0.0.01": "odd address",
    "0": "odd address",
    "0x": "odd address",
    "8.8.8.8.8": "odd address",
    "256.1.1.1": "odd address",
    "4294967296": "odd address",
    "[1:2]": "odd address",
    "[::1::]": "odd address",
    "127.0.0.1.": "trailing dot",
    "１２７.０.０.１": "not ASCII",
    "127。0。0。1": "not ASCII",
    "①②⑦.⓪.⓪.①": "not ASCII",
    "[fe80::1%25eth0]": "encoded host",
    "[fe80::1%eth0]": "encoded host",
    "[127.0.0.1]": "not a URL",
    "[v1.fe80]": "not a URL",
}

REFUSED_NAMES = {
    "localhost": "loopback address",
    "LocalHost": "loopback address",
    "foo.localhost": "loopback address",
    "localhost.localdomain": "loopback address",
    "ip6-localhost": "loopback address",
    "metadata.google.internal": "metadata address",
    "METADATA.google.INTERNAL": "metadata address",
    "metadata": "metadata address",
    "instance-data": "metadata address",
    "localhost.": "trailing dot",
    "example.com.": "trailing dot",
    "example..com": "bad name",
    ".example.com": "bad name",
    "-a.example.com": "bad name",
    "a-.example.com": "bad name",
    "a" * 64 + ".com": "bad name",
    ("a" * 49 + ".") * 6 + "com": "bad name",
    "exa*mple.com": "bad name",
    "exa!mple.com": "bad name",
    "a,b.com": "bad name",
    "bücher.example": "not ASCII",
    "xn--localhost-.com": "bad name",  # decodes to plain ASCII
    "xn--" + "１２７".encode("punycode").decode() + ".com": "bad name",  # full-width digits
    "xn--\x7f.com": "control",
    "xn--.com": "bad name",
}

REFUSED_URLS = {
    "": "not a URL",
    "example.com/hook": "not a URL",
    "//127.0.0.1": "not a URL",
    "//example.com/": "not a URL",
    "http:127.0.0.1": "not a URL",
    "http:/example.com": "not a URL",
    "http//example.com": "not a URL",
    "https:": "not a URL",
    "http://": "no host",
    "http:///127.0.0.1": "no host",
    "http://?a": "no host",
    "http://:80/": "no host",
    "http://[::1": "not a URL",
    "http://::1/": "no host",
    "http://[]/": "not a URL",
    "http://[::1]x/": "not a URL",
    "http://[::1]x:80/": "not a URL",
    "http://example.com:80:80/": "not a URL",
    "http://example.com:/": "not a URL",
    "http://example.com:+80/": "not a URL",
    "http://example.com:-1/": "not a URL",
    "http://example.com:8a/": "not a URL",
    f"http://a:{SECRET}@127.0.0.1/": "userinfo",
    f"http://{SECRET}@127.0.0.1/": "userinfo",
    f"http://public:{SECRET}@example.com/": "userinfo",
    f"http://@{SECRET}.example.com/": "userinfo",
    f"http://127.0.0.1#{SECRET}@public/": "fragment",
    f"http://example.com/{SECRET}#": "fragment",
    f"http://{SECRET}\\@127.0.0.1/": "backslash",
    f"http:\\\\{SECRET}/": "backslash",
    f"http://example.com\t/{SECRET}": "control",
    f"http://exam\nple.com/{SECRET}": "control",
    f"http://example.com/a\r\nx: {SECRET}": "control",
    f"http://example.com/ {SECRET}": "control",
    f" http://example.com/{SECRET}": "control",
    f"http://example.com/{SECRET} ": "control",
    f"http://example.com/{SECRET}\0": "control",
    f"http://example.com/{SECRET}\x7f": "control",
    f"http://example.com/%00{SECRET}": "control",
    f"http://example.com/?%0d%0A{SECRET}": "control",
    f"http://example.com/{SECRET}ü": "not ASCII",
    "http://127%2e0%2e0%2e1/": "encoded host",
    "http://%31%32%37.0.0.1/": "encoded host",
    "http://example%00.com/": "control",
    "http://example.com/" + "a" * (MAX_URL - len("http://example.com/") + 1): "too long",
    "http://example.com/" + "a" * 1_000_000: "too long",
    "file:///etc/passwd": "scheme",
    "gopher://example.com/": "scheme",
    "dict://example.com/": "scheme",
    "ftp://example.com/": "scheme",
    "ldap://example.com/": "scheme",
    "ws://example.com/": "scheme",
    "https+unix://example.com/": "scheme",
    "unix://example.com/": "scheme",
    "javascript://example.com/": "scheme",
    "unix:/run/x.sock": "not a URL",
    "javascript:alert(1)": "not a URL",
    "data:text/plain,x": "not a URL",
    "http://example.com:0/": "port",
    "http://example.com:22/": "port",
    "http://example.com:25/": "port",
    "http://example.com:1023/": "port",
    "http://example.com:6379/": "port",
    "http://example.com:5432/": "port",
    "http://example.com:65536/": "port",
    "http://example.com:080/": "port",
    "http://example.com:99999999999999999999/": "port",
}

ALL_REFUSED = (
    {f"http://{host}/": reason for host, reason in (REFUSED_LITERALS | REFUSED_NAMES).items()}
    | {f"https://{host}:8443/p?q": reason for host, reason in (REFUSED_LITERALS | REFUSED_NAMES).items()}
    | REFUSED_URLS
)


@pytest.mark.parametrize(("url", "reason"), ALL_REFUSED.items(), ids=[ascii(url[:60]) for url in ALL_REFUSED])
def test_a_refused_url_says_why_and_never_repeats_a_secret(url: str, reason: str) -> None:
    with pytest.raises(InvalidUrl) as raised:
        parse_url(url, HTTP)
    assert raised.value.reason == reason
    assert SECRET not in str(raised.value)
    assert len(str(raised.value)) < 500


ALLOWED = {
    "https://example.com/hook": Target("https://example.com/hook", "https", "example.com", 443),
    "HTTPS://Example.COM/Hook?A=b": Target("https://example.com/Hook?A=b", "https", "example.com", 443),
    "https://example.com": Target("https://example.com/", "https", "example.com", 443),
    "https://example.com?a=1": Target("https://example.com/?a=1", "https", "example.com", 443),
    "https://example.com:8443/": Target("https://example.com:8443/", "https", "example.com", 8443),
    "http://example.com:80/": Target("http://example.com:80/", "http", "example.com", 80),
    "https://example.com/a@b:c?d@e": Target("https://example.com/a@b:c?d@e", "https", "example.com", 443),
    "https://example.com/../a/./b%20c": Target("https://example.com/../a/./b%20c", "https", "example.com", 443),
    "https://8.8.8.8/": Target("https://8.8.8.8/", "https", "8.8.8.8", 443),
    "https://[2606:4700::1111]:65535/": Target("https://[2606:4700::1111]:65535/", "https", "2606:4700::1111", 65535),
    "https://xn--bcher-kva.example/": Target("https://xn--bcher-kva.example/", "https", "xn--bcher-kva.example", 443),
    "https://my_host.example/": Target("https://my_host.example/", "https", "my_host.example", 443),
    "https://intranet/": Target("https://intranet/", "https", "intranet", 443),
    "https://1.example.com/": Target("https://1.example.com/", "https", "1.example.com", 443),
    "https://localhost.example.com/": Target("https://localhost.example.com/", "https", "localhost.example.com", 443),
    "https://foo.metadata/": Target("https://foo.metadata/", "https", "foo.metadata", 443),
}


@pytest.mark.parametrize(("url", "target"), ALLOWED.items())
def test_an_allowed_url_keeps_its_path_byte_for_byte(url: str, target: Target) -> None:
    assert parse_url(url, HTTP) == target
    assert parse_url(target.url, HTTP) == target


def test_the_longest_url_passes() -> None:
    url = "https://example.com/".ljust(MAX_URL, "a")
    assert parse_url(url, HTTP).url == url


def test_http_is_off_unless_the_operator_allows_it() -> None:
    with pytest.raises(InvalidUrl, match="https") as raised:
        parse_url("http://example.com/", UrlPolicy())
    assert raised.value.reason == "scheme"
    assert parse_url("https://example.com/", UrlPolicy()).port == 443


def test_a_port_list_replaces_the_default() -> None:
    policy = UrlPolicy(allow_http=True, allow_ports=frozenset({22, 443}))
    assert parse_url("http://example.com:22/", policy).port == 22
    with pytest.raises(InvalidUrl, match="port 8080"):
        parse_url("http://example.com:8080/", policy)
    with pytest.raises(InvalidUrl, match="port 80 "):
        parse_url("http://example.com/", policy)


def test_no_refused_port_is_one_that_the_kernel_hands_out() -> None:
    assert all(1024 <= port < 32_768 for port in DATABASE_PORTS)


LOOPBACK = UrlPolicy(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"),))


def test_a_listed_network_opens_itself_only() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "localhost", "foo.localhost"):
        parse_url(f"http://{host}:8080/", LOOPBACK)
    for host, reason in REFUSED_LITERALS.items():
        if not host.startswith("127.") or reason == "odd address":
            with pytest.raises(InvalidUrl):
                parse_url(f"http://{host}/", LOOPBACK)
    with pytest.raises(InvalidUrl):
        parse_url("http://metadata.google.internal/", LOOPBACK)


def test_a_listed_address_opens_no_translation_of_it() -> None:
    policy = UrlPolicy(allow_networks=(ip_network("10.1.2.0/24"), ip_network("::1/128")))
    assert address_refusal("10.1.2.3", policy) is None
    assert address_refusal("::1", policy) is None
    assert address_refusal("10.1.3.3", policy) == "private"
    assert address_refusal("::ffff:10.1.2.3", policy) == "mapped"
    assert address_refusal("64:ff9b::a01:203", policy) == "translated"
    assert address_refusal("2002:a01:203::", policy) == "translated"


def test_listed_metadata_opens_its_names() -> None:
    policy = UrlPolicy(allow_http=True, allow_networks=(ip_network("169.254.169.254/32"),))
    assert parse_url("http://metadata.google.internal/", policy).host == "metadata.google.internal"


@given(st.ip_addresses())
def test_what_is_not_globally_routable_is_refused(address: IPv4Address | IPv6Address) -> None:
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert address_refusal(str(address), UrlPolicy()) is not None


@given(
    st.ip_addresses(network="::/96") | st.ip_addresses(network="::ffff:0:0/96") | st.ip_addresses(network="2002::/16")
)
def test_no_form_that_embeds_an_address_is_allowed(address: IPv4Address | IPv6Address) -> None:
    assert address_refusal(str(address), LOOPBACK) is not None


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "fe80::1%eth0", "1.2.3.4/32", "x" * 5000])
def test_what_is_no_address_is_refused(text: str) -> None:
    assert address_refusal(text, UrlPolicy()) is not None


def resolving(*addresses: str) -> Resolve:
    def resolve(host: str, port: int) -> list[tuple[object, object, object, object, tuple[object, ...]]]:
        assert host == "example.com"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    return resolve


EXAMPLE = parse_url("https://example.com/", UrlPolicy())


def test_a_name_with_one_private_address_is_refused() -> None:
    with pytest.raises(InvalidUrl, match=r"example\.com has a private address") as raised:
        check_resolved(EXAMPLE, UrlPolicy(), resolving("93.184.216.34", "10.0.0.1"))
    assert raised.value.reason == "private address"


def test_a_name_with_public_addresses_passes_without_a_note() -> None:
    assert check_resolved(EXAMPLE, UrlPolicy(), resolving("93.184.216.34", "2606:2800:220:1::1")) is None


def test_a_scoped_address_is_refused() -> None:
    with pytest.raises(InvalidUrl):
        check_resolved(EXAMPLE, UrlPolicy(), resolving("fe80::1%eth0"))


def test_a_name_that_does_not_resolve_yet_is_noted_not_refused() -> None:
    def fails(_host: str, _port: int) -> list[tuple[object, object, object, object, tuple[object, ...]]]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for resolve in (fails, resolving()):
        note = check_resolved(EXAMPLE, UrlPolicy(), resolve)
        assert note is not None
        assert "does not resolve yet" in note


def test_the_system_resolver_fits() -> None:
    target = parse_url("http://localhost:8080/", LOOPBACK)
    both = UrlPolicy(allow_networks=(ip_network("127.0.0.0/8"), ip_network("::1/128")))
    assert check_resolved(target, both) is None
    with pytest.raises(InvalidUrl, match="loopback"):
        check_resolved(target, UrlPolicy())


def test_a_policy_is_a_value() -> None:
    assert UrlPolicy(allow_networks=(ip_network("10.0.0.0/8"),)) == UrlPolicy(
        allow_networks=(ip_network("10.0.0.0/8"),)
    )
    assert hash(LOOPBACK) == hash(UrlPolicy(True, (ip_network("127.0.0.0/8"),), None))
    assert ip_address("127.0.0.1") in LOOPBACK.allow_networks[0]
