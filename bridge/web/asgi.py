"""What an ASGI server loads: the application, with what it asks made from the settings (``bridge.web.asgi:app``)."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from litestar import Litestar

from bridge.errors import BrokerUnreachable
from bridge.observe.logs import get_logger
from bridge.reachability import readiness_checks
from bridge.sender import ask_for_poll
from bridge.servers import broker_url
from bridge.settings import Settings, load_settings
from bridge.web.app import create_app
from bridge.web.push import Pushes
from bridge.wiring import Bridge, observe

_log = get_logger(__name__)
_WAKE_MS = 2_000


def app() -> Litestar:
    """The application for this process's settings.

    Raises SettingsError, or StoreUnreachable where no store is configured and none runs here.
    """
    settings = load_settings()
    observe(settings)
    store = _Store(settings)
    return create_app(readiness_checks(settings), Pushes(admits=store.admits, hint=store.hint, wake=store.wake))


class _Store:
    """The bridge, opened when it is first asked: a store that is down keeps nobody from asking after health."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = Lock()
        self._bridge: Bridge | None = None

    def admits(self, account: str, token: str) -> bool:
        return self._opened().push_tokens.admits(account, token)

    def hint(self, account: str, session_nos: Sequence[str]) -> bool:
        bridge = self._opened()
        sooner, unknown = bridge.pushes.take(account, session_nos, bridge.clock.now_ms())
        _log.debug("provider pushed", account=account, named=len(session_nos), sooner=sooner, unknown=unknown)
        return sooner > 0

    def wake(self, account: str) -> None:
        """Make somebody poll now; if nobody can be asked, the next tick does."""
        bridge, what = self._opened(), f"poll:{account}"
        if not bridge.wakes.take(what, _WAKE_MS):
            return  # somebody polls, and looks once more before the end
        try:
            ask_for_poll(account, broker_url=broker_url(self._settings))
        except BrokerUnreachable as error:
            bridge.wakes.drop(what)
            _log.warning("polling waits for the next tick", account=account, reason=str(error))

    def _opened(self) -> Bridge:
        with self._lock:
            if self._bridge is None:
                self._bridge = Bridge(self._settings)
            return self._bridge
