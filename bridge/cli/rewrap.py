"""``bridge rewrap``: stored secrets under a new key."""

from __future__ import annotations

from bridge.cli.common import Json, audited, opened
from bridge.cli.output import progress, show
from bridge.errors import SecretsUnreadable


def rewrap(json: Json = False) -> None:
    """Encrypt all stored secrets again, with the first of BRIDGE_SECRET_KEYS. Safe to repeat, and while workers run.

    First give the new key to every process, in front of the old one; then this; then the old one can be taken away.

    \b
    BRIDGE_SECRET_KEYS=NEW,OLD bridge rewrap
    """
    with opened() as bridge, progress("sealing") as advance, audited(bridge, "rewrap") as noted:
        done = bridge.rewrapping.run(advance)
        noted.details |= {"rewrapped": done.rewrapped, "unreadable": len(done.unreadable)}
    show({"rewrapped": done.rewrapped, "already_current": done.current, "unreadable": list(done.unreadable)}, json=json)
    if done.unreadable:
        raise SecretsUnreadable(
            f"no key of BRIDGE_SECRET_KEYS opens the secrets of {len(done.unreadable)}: add the key they were written "
            "with, and repeat this"
        )
