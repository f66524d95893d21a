"""Asking the provider for receipts: one signed POST, and every way it can go wrong as one of three errors.

Nothing here logs, and no message or chained exception holds a key or a phone: the provider's own words are quoted
shortened, with numbers and keys masked, and of what ``requests`` raises only the kind and the system's reason.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator, Sequence
from urllib.parse import urlencode, urlsplit

import requests
import urllib3.exceptions
from urllib3.util import Timeout

from bridge.errors import ProviderError, SettingsError, TransientProviderError
from bridge.provider.retcodes import refusal
from bridge.provider.signature import sign
from bridge.provider.transport import bounded_session
from bridge.provider.wire import Answer, Receipts, parse_answer

MAX_SESSIONS = 100
"""SessionNoSet.0 to SessionNoSet.99 (the provider's document); what more would do is unstated."""

MAX_ANSWER_BYTES = 32_000_000
"""100 sessions of 1,000 phones are about 20 MB. A larger answer is a broken server's, not ours."""

_CONNECT_TIMEOUT_S = 10.0
_CHUNK_BYTES = 65_536
_HEADERS = {
    "Content-Type": "application/x-www-form-urlencoded",
    "Accept": "application/json",
    "Accept-Encoding": "gzip",
    "User-Agent": "usms-bridge",
}


class UsmsClient:
    """Calls GetUSMSSendReceipt for one account. Threads may share it; make it after forking (it holds sockets).

    ``url`` is the provider's endpoint; ``project_id`` and ``region`` are sent only where given. ``timeout_ms`` bounds
    a whole call, from connecting to the answer's last byte; looking up the host name comes on top. ``session``, if
    given, should come from ``bounded_session``: accounts can share its connections, and another kind of session
    bounds each wait for bytes only. Raises SettingsError for a URL that cannot be called.
    """

    def __init__(
        self,
        *,
        url: str,
        public_key: str,
        private_key: str,
        project_id: str = "",
        region: str = "",
        timeout_ms: int,
        session: requests.Session | None = None,
    ) -> None:
        if timeout_ms <= 0:
            raise ValueError(f"timeout_ms is {timeout_ms}: it must be positive")
        self._url = _checked_url(url)
        self._private_key = private_key
        self._common = {
            name: value
            for name, value in (
                ("Action", "GetUSMSSendReceipt"),
                ("PublicKey", public_key),
                ("ProjectId", project_id),
                ("Region", region),
            )
            if value
        }
        self._secrets = tuple(key for key in (public_key, private_key) if key)
        self._timeout_s = timeout_ms / 1000
        self._session = bounded_session() if session is None else session
        self._owns_session = session is None

    def fetch_receipts(self, session_nos: Sequence[str]) -> Receipts:
        """The receipts of 1 to 100 different sessions.

        Raises ValueError for another number, or a repeated SessionNo; TransientProviderError, AccountError or
        RequestError (``bridge.errors`` says which is which) for everything but an answer with RetCode 0.
        """
        if not 1 <= len(session_nos) <= MAX_SESSIONS:
            raise ValueError(f"{len(session_nos)} sessions in a call: it takes 1 to {MAX_SESSIONS}")
        if len(set(session_nos)) != len(session_nos):
            raise ValueError("a SessionNo is given twice")
        status, body = self._post(self._form(session_nos))
        if status == 429 or status >= 500:
            raise TransientProviderError(f"the provider answered HTTP {status}", throttled=status == 429)
        answer = _parse(status, body, session_nos)
        if answer.ret_code:
            raise self._refusal(answer)
        return answer.receipts

    def close(self) -> None:
        """Close the connections, unless the session was given."""
        if self._owns_session:
            self._session.close()

    def _form(self, session_nos: Sequence[str]) -> bytes:
        parameters = dict(self._common)
        for index, session_no in enumerate(session_nos):
            parameters[f"SessionNoSet.{index}"] = session_no
        parameters["Signature"] = sign(parameters, self._private_key)
        return urlencode(parameters).encode("ascii")

    def _post(self, form: bytes) -> tuple[int, bytes]:
        try:
            with self._session.post(
                self._url,
                data=form,
                headers=_HEADERS,
                timeout=Timeout(  # type: ignore[arg-type]  # requests takes it, and documents so; its stubs do not
                    total=self._timeout_s, connect=min(_CONNECT_TIMEOUT_S, self._timeout_s), read=self._timeout_s
                ),
                stream=True,
                # A redirected POST would carry the signature to wherever it points, or turn into a GET.
                allow_redirects=False,
            ) as response:
                return response.status_code, _read(response)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            failure = explain_failure(error, self._timeout_s)
        # Raised outside the handler: chained, the request's body with the public key would come along.
        raise failure

    def _refusal(self, answer: Answer) -> ProviderError:
        said = answer.message
        for secret in self._secrets:
            said = said.replace(secret, "…")
        return refusal(answer.ret_code, said)


# The first that fits: subclasses stand before what they derive from.
_FAILURES: tuple[tuple[type[BaseException], str], ...] = (
    (requests.exceptions.ConnectTimeout, "no connection to the provider within {limit:g} s"),
    (requests.exceptions.Timeout, "the provider's answer did not end within {limit:g} s"),
    (requests.exceptions.SSLError, "no secure connection to the provider"),
    (requests.exceptions.ProxyError, "no connection to the proxy"),
    (requests.exceptions.ChunkedEncodingError, "the provider's answer broke off"),
    (requests.exceptions.ContentDecodingError, "the provider's answer is not compressed as it says"),
    (requests.exceptions.ConnectionError, "no connection to the provider, or it broke off"),
    (requests.exceptions.RequestException, "the provider cannot be called"),
    (urllib3.exceptions.HTTPError, "the provider's answer cannot be read"),
    (OSError, "the provider cannot be reached"),
)


def explain_failure(error: Exception, timeout_s: float) -> TransientProviderError:
    """What a call that brought no answer means. Transient, all of it: whatever the cause, nothing was said of receipts.

    The text names the exception and the system's or TLS's own reason, and nothing else of it: what ``requests``
    writes can hold the URL and, in ``error.request``, the whole form.
    """
    causes = list(_causes(error))
    slow = any(isinstance(cause, urllib3.exceptions.ReadTimeoutError | TimeoutError) for cause in causes)
    if slow and not isinstance(error, requests.exceptions.Timeout):
        # requests reports a body that stops coming as a ConnectionError.
        text = "the provider's answer did not end within {limit:g} s"
    else:
        text = next((text for kind, text in _FAILURES if isinstance(error, kind)), "the call failed")
    limit = min(_CONNECT_TIMEOUT_S, timeout_s) if isinstance(error, requests.exceptions.ConnectTimeout) else timeout_s
    reasons = [type(error).__name__, *dict.fromkeys(reason for cause in causes if (reason := _reason(cause)))]
    return TransientProviderError(f"{text.format(limit=limit)} ({': '.join(reasons)})")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and those it wraps: urllib3 keeps them in ``reason``, requests among its arguments."""
    waiting, seen = [error], set[int]()
    while waiting:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        wrapped = (cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args)
        waiting.extend(inner for inner in wrapped if isinstance(inner, BaseException))


def _reason(cause: BaseException) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message
    if isinstance(cause, ssl.SSLError):
        return cause.reason or ""
    if isinstance(cause, OSError) and isinstance(cause.errno, int):
        return cause.strerror or ""
    return ""


def _read(response: requests.Response) -> bytes:
    if response.status_code == 429 or response.status_code >= 500:
        return b""  # decided by the status alone
    chunks: list[bytes] = []
    size = 0
    for chunk in _chunks(response):
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            # Transient, not the request's fault: calls are packed to answers far smaller, so this is a server gone
            # wrong, and bisecting would fetch as much again for every half and quarantine sessions without blame.
            raise TransientProviderError(f"the provider's answer is larger than {MAX_ANSWER_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _chunks(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_content(_CHUNK_BYTES)
    except ValueError as error:
        # Of a chunk that says it has -2 bytes: nothing on the way takes it for an error of the answer.
        raise requests.exceptions.ChunkedEncodingError from error


def _parse(status: int, body: bytes, session_nos: Sequence[str]) -> Answer:
    """The answer, whatever its HTTP status if it holds a RetCode; TransientProviderError if it is none."""
    if 200 <= status < 300:
        return parse_answer(body, session_nos)
    with contextlib.suppress(TransientProviderError):
        answer = parse_answer(body, session_nos)
        if answer.ret_code:
            return answer
    raise TransientProviderError(f"HTTP {status} without a RetCode: is BRIDGE_PROVIDER_URL the provider's?")


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        callable_ = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        prepared = requests.Request("POST", url).prepare().url if callable_ else None
    except (ValueError, requests.RequestException):
        prepared = None
    if prepared is None:
        raise SettingsError("BRIDGE_PROVIDER_URL must be an http:// or https:// URL, such as https://api.ucloud.cn/")
    if parts.username is not None or parts.password is not None:
        raise SettingsError("BRIDGE_PROVIDER_URL must not hold a user or a password: the keys have their own settings")
    return url
