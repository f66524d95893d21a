"""What an ASGI server loads: the application, with its checks made from the settings (``bridge.web.asgi:app``)."""

from __future__ import annotations

from litestar import Litestar

from bridge.reachability import readiness_checks
from bridge.settings import load_settings
from bridge.web.app import create_app
from bridge.wiring import observe


def app() -> Litestar:
    """The application for this process's settings.

    Raises SettingsError, or StoreUnreachable where no store is configured and none runs here.
    """
    settings = load_settings()
    observe(settings)
    return create_app(readiness_checks(settings))
