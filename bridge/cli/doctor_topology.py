"""What ``bridge doctor`` says of a store on several servers: who has which part, and who would take over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from bridge.cli.doctor_findings import Finding, Verdict, fail, ok, warn
from bridge.cli.doctor_servers import SERVER_CHECKS, Server, read_server
from bridge.domain.server_urls import safe_url
from bridge.domain.topology import SLOTS, Member, Sentinels, read_members, read_sentinels
from bridge.errors import StoreUnreachable
from bridge.store.wire import Node

if TYPE_CHECKING:
    from bridge.store.client import Client


def store_findings(client: Client, url: str) -> Iterator[Finding]:
    """The store's topology, where it has one, then each server's own state. Raises StoreUnreachable."""
    servers: list[Server] = []
    nodes = client.nodes()
    if client.is_cluster:
        (reply,) = client.commands([["CLUSTER", "NODES"]])
        members = read_members(cast("bytes", reply).decode())
        yield from cluster_findings(members)
        nodes = [Node(one.name, one.is_master) for one in members if not one.is_failed]
    elif (group := client.sentinels()) is not None:
        yield from sentinel_findings(read_sentinels(*group))
    for node in nodes:
        try:
            servers.append(read_server(client, node, safe_url(url) if len(nodes) == 1 else node.name))
        except StoreUnreachable as error:
            yield fail("store", f"{node.name}: {error}", "start it, or take it out of the cluster")
    yield from server_findings(servers)


def server_findings(servers: Sequence[Server]) -> Iterator[Finding]:
    """Each check of every server; of several, those that are not well are named, or it is said once that all are."""
    for check in SERVER_CHECKS:
        found = [(server.url, finding) for server in servers for finding in check(server)]
        if len(servers) == 1:
            yield from (finding for _, finding in found)
            continue
        troubled = [(name, finding) for name, finding in found if finding.verdict is not Verdict.OK]
        for name, finding in troubled:
            yield Finding(finding.check, finding.verdict, f"{name}: {finding.detail}", finding.action)
        if found and not troubled:
            details = list(dict.fromkeys(finding.detail for _, finding in found))
            yield ok(found[0][1].check, f"all {len(servers)} servers: {'; '.join(details)}")


def cluster_findings(members: Sequence[Member]) -> Iterator[Finding]:
    """Whether every slot is served, and every master has somebody to take over."""
    masters = [one for one in members if one.is_master and one.slots]
    served = sum(one.slots for one in masters if not one.is_failed)
    said = f"cluster of {len(masters)} masters and {sum(not one.is_master for one in members)} replicas"
    if served < SLOTS:
        yield fail(
            "topology",
            f"{said}: only {served:,} of {SLOTS:,} slots are served, what is in the others waits",
            "bring the failed master back, or let its replica take over (CLUSTER FAILOVER TAKEOVER)",
        )
    for one in members:
        if one.is_failed:
            kind = "master" if one.is_master else "replica"
            yield (fail if one.is_master and one.slots else warn)(
                "topology", f"{kind} {one.name} is failing", "start it again, or let the cluster forget it"
            )
    alone = [one.name for one in masters if not any(other.master == one.id for other in members)]
    if alone:
        yield warn(
            "topology",
            f"{said}: no replica of {', '.join(alone)}, whose sessions wait when it dies",
            "give each master a replica",
        )
    moving = sum(one.moving for one in members)
    if served == SLOTS and not alone:
        yield ok("topology", f"{said}, all slots served" + (f", {moving} being moved" if moving else ""))


def sentinel_findings(group: Sentinels) -> Iterator[Finding]:
    """Whether a master is there, and enough Sentinels and a replica to replace it."""
    said = (
        f"master {group.master}, {group.replicas} replicas, {group.known} Sentinels of which {group.quorum} must agree"
    )
    if group.is_down:
        yield fail("topology", f"{said}: the master is down", "wait for the failover, or see the Sentinels' logs")
    if group.silent:
        yield warn("topology", f"{said}: no answer from {', '.join(group.silent)}", "start it again")
    if not group.replicas:
        yield warn("topology", f"{said}: nobody can take over", "give the master a replica")
    elif group.known < max(3, group.quorum):
        yield warn("topology", f"{said}: too few to agree when one is gone", "run at least three")
    elif not group.is_down and not group.silent:
        yield ok("topology", said)
