"""``bridge erase``: remove a phone from all that is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from bridge.cli.common import accounts_of, audited, opened
from bridge.cli.output import progress, show
from bridge.errors import UsageError

if TYPE_CHECKING:
    from bridge.store.erasure import Erased


def erase(
    phone: Annotated[str, typer.Option(metavar="P", help="The phone, in any spelling: compared on its digits.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would be removed, and remove nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object: the counts.")] = False,
) -> None:
    """Remove a phone: from sessions, events, waiting deliveries, dead letters, failed attempts and rejected items.

    Of every account. Later polls do not bring it back for sessions sent before now. A callback under way may still
    arrive, and leave a note of its attempt: erase again a minute later to be sure. Bytes may remain in the server's
    memory and snapshots until the log is trimmed.

    Metadata that senders gave to sessions is searched too. Where it names the phone that is removed from it, so that
    later events do not carry it. "metadata left" events and dead letters of other phones carry it still: their bytes do
    not change, and they go with BRIDGE_KEEP_EVENTS and BRIDGE_KEEP_DEAD. In "doubtful" sessions the digits stand within
    a longer number: look at them, and track them again with other metadata where it is the phone.

    \b
    bridge erase --phone "(86)18500000001" --dry-run
    """
    if not any(char.isdigit() for char in phone):
        raise UsageError("--phone: give the phone with its digits")
    with opened() as bridge, progress("erasing") as advance:
        accounts = accounts_of(bridge, None)
        if dry_run:
            done = bridge.erase(phone, accounts, advance, dry=True)
        else:
            with audited(bridge, "erase") as noted:
                done = bridge.erase(phone, accounts, advance, dry=False)
                noted.details |= msgspec.structs.asdict(done) | {"doubtful": len(done.doubtful)}
            _say(bridge.settings.log_format, bridge.tombstones.of(phone), done)
    show({**msgspec.structs.asdict(done), "dry_run": dry_run}, json=json)


def _say(log_format: str, tombstone: bytes, done: Erased) -> None:
    """One line in the log: which tombstone, never which phone."""
    from bridge.observe.logs import get_logger, setup_logging

    setup_logging("json" if log_format == "json" else "console")
    counts = msgspec.structs.asdict(done) | {"doubtful": len(done.doubtful)}
    get_logger("bridge").info("phone erased", tombstone=tombstone.hex()[:12], **counts)
