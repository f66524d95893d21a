"""The provider of each account: its client, and its rate. What an operator changes of an account counts within seconds.

An account's stored record is its own version: a few hundred bytes, read again where they are older than two seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from threading import Lock
from time import monotonic

import msgspec

from bridge.domain.accounts import DEFAULT_ACCOUNT, Account
from bridge.errors import AccountError, SecretsUnreadable, SettingsError
from bridge.provider.client import UsmsClient
from bridge.provider.transport import bounded_session
from bridge.provider.wire import Receipts
from bridge.settings import Settings
from bridge.store.accounts import AccountStore, unpack
from bridge.store.credentials import ProviderKeys
from bridge.store.secrets import SecretBox

_KEPT_S = 2.0
_NO_DEFAULT = "BRIDGE_PUBLIC_KEY and BRIDGE_PRIVATE_KEY: not set; take them from the provider's console"


class _Known(msgspec.Struct, frozen=True):
    """What was last read of an account: its record (None for none), and what was made of it; or why nothing was."""

    record: bytes | None
    read_s: float
    account: Account | None = None
    client: UsmsClient | None = None
    trouble: str = ""


class Provider:
    """``GetUSMSSendReceipt`` for one account, under whatever credentials it has at the moment of the call."""

    def __init__(self, providers: Providers, account: str) -> None:
        self._providers = providers
        self._account = account

    def fetch_receipts(self, session_nos: Sequence[str]) -> Receipts:
        """The receipts of 1 to 100 different sessions.

        Raises ``ProviderError``: AccountError too where the account has no credentials, or none that can be opened.
        """
        return self._providers.call(self._account, session_nos)


class Providers:
    """The provider by account. Threads may share it; make it after forking (it holds sockets)."""

    def __init__(
        self,
        settings: Settings,
        accounts: AccountStore,
        box: Callable[[], SecretBox],
        ticking: Callable[[], float] = monotonic,
    ) -> None:
        self._settings = settings
        self._accounts = accounts
        self._box = box
        self._ticking = ticking
        self._session = bounded_session()
        self._lock = Lock()
        self._known: dict[str, _Known] = {}

    @cached_property
    def keys(self) -> ProviderKeys:
        """What accounts call the provider with, as it is stored.

        Raises:
            SettingsError: BRIDGE_SECRET_KEYS is missing.
        """
        return ProviderKeys(self._box())

    def require_some(self) -> None:
        """Check that there is an account to poll for.

        Raises:
            SettingsError: default has no keys, and there is no other account.
        """
        if self.trouble(DEFAULT_ACCOUNT) and not self._accounts.all():
            raise SettingsError(f"{_NO_DEFAULT}, or add another account with `bridge accounts add`")

    def of(self, account: str) -> Provider:
        """The provider for an account, whether or not it has credentials."""
        return Provider(self, account)

    def url(self, account: str) -> str:
        """Where an account's calls go."""
        known = self._look(account).account
        return known.provider_url if known is not None and known.provider_url else self._settings.provider_url

    def trouble(self, account: str) -> str:
        """Why an account cannot be polled for want of credentials, "" if it can be."""
        return self._look(account).trouble

    def rate(self, account: str) -> float:
        """How many calls a second an account may make."""
        known = self._look(account).account
        return self._settings.provider_rate if known is None or known.rate is None else known.rate

    def call(self, account: str, session_nos: Sequence[str]) -> Receipts:
        """As ``Provider.fetch_receipts``.

        A call that fails for its credentials, which have been changed since they were read, is made again with the
        new ones: else the old ones would stop the account for another minute.
        """
        known = self._look(account)
        try:
            return _client(known).fetch_receipts(session_nos)
        except AccountError:
            fresh = self._look(account, kept_s=0)
            if fresh.record == known.record:
                raise
        return _client(fresh).fetch_receipts(session_nos)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _look(self, account: str, kept_s: float = _KEPT_S) -> _Known:
        with self._lock:
            known = self._known.get(account)
            # One that is missing is looked for each time: whoever adds it wants it polled at once.
            if known is not None and known.client is not None and self._ticking() - known.read_s < kept_s:
                return known
            known = self._known[account] = self._read(account, known)
            return known

    def _read(self, account: str, known: _Known | None) -> _Known:
        read_s = self._ticking()
        if account == DEFAULT_ACCOUNT:
            client = known.client if known is not None else self._default()
            return _Known(None, read_s, client=client, trouble="" if client else f"{_NO_DEFAULT}; its sessions wait")
        record = self._accounts.record(account)
        if record is None:
            return _Known(None, read_s, trouble=_none_of(account))
        if known is not None and known.record == record and known.client is not None:
            return msgspec.structs.replace(known, read_s=read_s)
        found = unpack(record)
        try:
            return _Known(record, read_s, found, self._made(found))
        except (SecretsUnreadable, SettingsError) as error:
            # Of this account alone: the others go on.
            return _Known(record, read_s, found, trouble=f"the account {account} cannot be polled: {error}")

    def _default(self) -> UsmsClient | None:
        settings = self._settings
        if settings.public_key is None or settings.private_key is None:
            return None
        return UsmsClient(
            url=settings.provider_url,
            public_key=settings.public_key.get_secret_value(),
            private_key=settings.private_key.get_secret_value(),
            project_id=settings.project_id or "",
            region=settings.region or "",
            timeout_ms=settings.provider_timeout_ms,
            session=self._session,
        )

    def _made(self, account: Account) -> UsmsClient:
        return UsmsClient(
            url=account.provider_url or self._settings.provider_url,
            public_key=account.public_key,
            private_key=self.keys.private_key(account),
            project_id=account.project_id,
            region=account.region,
            timeout_ms=self._settings.provider_timeout_ms,
            session=self._session,
        )


def _none_of(account: str) -> str:
    return f"the account {account} has no credentials: `bridge accounts add {account}` gives it some; its sessions wait"


def _client(known: _Known) -> UsmsClient:
    if known.client is None:
        raise AccountError(known.trouble)
    return known.client
