"""A libcurl handle for callbacks: what is the same for each, and what its identity makes of it."""

from __future__ import annotations

from bridge.delivery.libcurl import pycurl
from bridge.domain.credentials import Identity

# Set once on every handle. What is libcurl's default already stands here too where the promise hangs on it.
_CONSTANT_OPTIONS: tuple[tuple[int, int | str | None], ...] = (
    (pycurl.POST, 1),
    (pycurl.NOSIGNAL, 1),  # no SIGALRM: workers run this in threads
    (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
    (pycurl.HTTP09_ALLOWED, 0),
    (pycurl.FOLLOWLOCATION, 0),
    (pycurl.PATH_AS_IS, 1),  # the path that was registered, dots and all
    (pycurl.PROXY, ""),  # none, whatever the environment says
    (pycurl.NOPROXY, "*"),
    (pycurl.NETRC, pycurl.NETRC_IGNORED),
    (pycurl.USERAGENT, ""),  # pycurl's own name and version are nobody's business; the caller's header line stays
    (pycurl.ACCEPT_ENCODING, None),  # ask for no coding and undo none
    (pycurl.DNS_CACHE_TIMEOUT, 60),
    (pycurl.MAXLIFETIME_CONN, 600),  # seconds: a busy connection would else outlive any change of DNS
    (pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2),  # or later
    (pycurl.SSL_VERIFYPEER, 1),
    (pycurl.SSL_VERIFYHOST, 2),
    (pycurl.CAPATH, None),  # the bundle alone, not also the directory that libcurl was built with
)


def new_handle(ca_file: str, identity: Identity | None, *, allow_http: bool) -> pycurl.Curl:
    """A handle that trusts ``ca_file`` or its identity's own authorities, and shows its identity's certificate."""
    curl = pycurl.Curl()
    for option, value in _CONSTANT_OPTIONS:
        curl.setopt(option, value)
    curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTPS | (pycurl.PROTO_HTTP if allow_http else 0))
    curl.setopt(pycurl.CAINFO, ca_file)
    if identity is not None:
        if identity.authorities:
            curl.setopt(pycurl.CAINFO_BLOB, identity.authorities)  # in place of CAINFO
        if identity.certificate:
            curl.setopt(pycurl.SSLCERT_BLOB, identity.certificate)
            curl.setopt(pycurl.SSLKEY_BLOB, identity.key)
    return curl
