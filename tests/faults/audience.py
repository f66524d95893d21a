"""The applications of a run, by their kinds: how each subscribes, and how it behaves."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple

from tests.faults.crowd import Operator
from tests.faults.receivers import HANGING, MOODY, PUSHED, WELL, Application


class Kind(NamedTuple):
    """``hurt``: its connections go through the proxy; ``secure``: by TLS. ``options`` are those of ``bridge
    subscriptions add``."""

    moods: Mapping[str, float] = WELL
    hurt: bool = False
    secure: bool = False
    options: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    "well": Kind(),
    "moody": Kind(MOODY, hurt=True),
    "batches": Kind(MOODY, hurt=True, options=("--max-batch", "20")),
    "failures": Kind(options=("--statuses", "undelivered,expired,failed")),
    "pushed": Kind(PUSHED, hurt=True, options=("--format", "usms", "--partitions", "2")),
    "masked": Kind(options=("--phone-format", "masked", "--partitions", "4")),
    "hashed": Kind(MOODY, hurt=True, options=("--phone-format", "hashed", "--types", "sms.*")),
    "sessions": Kind(MOODY, hurt=True, options=("--types", "sms.session.completed,sms.session.overdue,bridge.*")),
    "removed": Kind(MOODY, hurt=True),
    "secure": Kind(MOODY, hurt=True, secure=True),
    "hanging": Kind(HANGING),
}
"""Those that subscribe where they may be called. (``by session`` and ``forbidden`` are of another kind.)"""


class Audience:
    """Whoever is subscribed. ``removable`` are those that a fault may remove, ``by_session`` hears by ``callback_url``
    alone."""

    def __init__(self, operator: Operator, seed: int) -> None:
        self._operator = operator
        self._seed = seed
        self.removable: list[Application] = []
        self.by_session: Application | None = None

    def subscribe(self, name: str, port: int, secure_port: int, canaries: list[str]) -> None:
        """Subscribe an application of a kind; those whose connections may be hurt are reached at these ports."""
        chance = random.Random(f"{self._seed} {name}")
        if name == "by session":
            self.by_session = Application("by-session", chance)
            self._operator.expect_callbacks(self.by_session)
        elif name == "forbidden":
            for url in canaries:
                self._operator.subscribe_where_forbidden(url)
        else:
            kind = KINDS[name]
            application = Application(name, chance, kind.moods)
            through = secure_port if kind.secure else port if kind.hurt else None
            scheme = "https" if kind.secure else "http"
            self._operator.subscribe(application, *kind.options, through=through, scheme=scheme)
            if name == "removed":
                self.removable.append(application)
