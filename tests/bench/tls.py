"""Delivery over TLS, connections kept: the same senders as without, each on 50 connections of its own."""

from __future__ import annotations

from collections import defaultdict

import msgspec

from bridge.cli.family import Family
from bridge.domain import events
from bridge.domain.accounts import DEFAULT_ACCOUNT
from tests.bench.delivery import ALONE, SIGNING, beside_libcurl, records, with_libcurl
from tests.bench.figures import Measured, by_name
from tests.bench.house import House
from tests.bench.receiver import Receiver


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """Events in each round, and rounds."""

    events: int
    rounds: int


def measure(sizes: Sizes) -> Measured:
    """Run all of them in turns. The certificate is checked, as a worker does."""
    with Family("bench") as family:
        house = House(family)
        receiver = Receiver(family, house.directory, tls=True)
        house.environment["BRIDGE_CALLBACK_CA_FILE"] = str(receiver.ca_file)
        body = events.render(DEFAULT_ACCOUNT, next(records(1)))[1]
        packed = [events.pack(record) for record in records(sizes.events)]
        rounds: dict[str, list[dict[str, float]]] = defaultdict(list)
        for _ in range(sizes.rounds):
            for name, found in with_libcurl(house, receiver, body, packed).items():
                rounds[name].append(found)
    figures = {who: by_name(found) for who, found in rounds.items()}
    about = {"receiver": receiver.kind, "events": f"{sizes.events:,}, over TLS"}
    return Measured(
        about=about, figures=figures, goals=beside_libcurl(figures, " over TLS"), references=(ALONE, SIGNING)
    )
