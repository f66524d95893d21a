"""Every error the bridge raises, in one tree; the command line turns each into one line and an exit code.

::

    BridgeError                     exit 1
    ├── UsageError                  exit 2: something given is wrong; the message says what and how to mend it
    │   ├── SettingsError           one line per wrong setting
    │   ├── InvalidSession          an item given to ``track``; has ``index``
    │   ├── InvalidUrl              a callback URL; has ``reason``
    │   └── IncompatibleStore       the store was written by a newer release, or with another shard count
    ├── Unreachable                 exit 3: something needed does not answer
    │   ├── StoreUnreachable
    │   └── BrokerUnreachable
    ├── NotFound                    exit 1: no such session, subscription or event
    ├── StoreEmptied                exit 1: the store is not the one it was
    ├── SecretsUnreadable           exit 2: none of BRIDGE_SECRET_KEYS opens a stored secret
    └── ProviderError               GetUSMSSendReceipt was not answered with receipts
        ├── TransientProviderError  try again later; ``throttled`` says that the rate was too high
        ├── AccountError            credentials, project or allow-list: no call of this account can succeed
        └── RequestError            this request was refused; ``ret_code``

Messages never hold a secret or a full phone number.
"""


class BridgeError(Exception):
    """Anything that the bridge itself found wrong."""

    exit_code = 1


class UsageError(BridgeError):
    """Something given by a caller is wrong: the message names it and says what to do."""

    exit_code = 2


class SettingsError(UsageError):
    """One or more settings are wrong; the message has a line for each."""


class InvalidSession(UsageError):
    """An item given to ``track`` is wrong. ``index`` is its place in the list, from 0."""

    def __init__(self, message: str, index: int = 0) -> None:
        super().__init__(message)
        self.index = index


class InvalidUrl(UsageError):
    """A callback URL is refused. ``reason`` is the short cause, such as ``private address``."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class IncompatibleStore(UsageError):
    """The store holds data that this release, or these settings, must not touch."""


class SecretsUnreadable(UsageError):
    """A stored secret was written under a key that BRIDGE_SECRET_KEYS does not hold."""


class Unreachable(BridgeError):
    """Something that is needed does not answer."""

    exit_code = 3


class StoreUnreachable(Unreachable):
    """Redis or Valkey does not answer."""


class BrokerUnreachable(Unreachable):
    """The Celery broker does not answer."""


class NotFound(BridgeError):
    """No such object."""


class StoreEmptied(BridgeError):
    """The store has another id than the one kept beside it: everything that was in it is gone."""


class ProviderError(BridgeError):
    """The provider did not answer with receipts. ``ret_code`` is its RetCode, None where there was none."""

    def __init__(self, message: str, ret_code: int | None = None) -> None:
        super().__init__(message)
        self.ret_code = ret_code


class TransientProviderError(ProviderError):
    """A time-out, a broken connection, an HTTP 5xx or 429, or a RetCode that says "later"."""

    def __init__(self, message: str, ret_code: int | None = None, *, throttled: bool = False) -> None:
        super().__init__(message, ret_code)
        self.throttled = throttled


class AccountError(ProviderError):
    """The provider refuses this account: its keys, its project or its source address."""


class RequestError(ProviderError):
    """The provider refuses this request: at least one of its SessionNos."""
