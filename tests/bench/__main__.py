"""``python -m tests.bench [row…]``: measure, and print targets beside figures; ``--help`` names the rows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import msgspec

from tests.bench import cluster, delivery, drill, memory, neighbours, tracking
from tests.bench.poll_rows import POLL_ROWS
from tests.bench.tables import Row, goal, shown, text_of


def main(argv: Sequence[str]) -> int:
    """Run what was asked for; delivery, tracking and memory without a name."""
    options = _parser().parse_args(argv)
    rows = options.rows or ["delivery", "tracking", "memory"]
    found: dict[str, object] = {}
    for row in rows:
        if row == "delivery":
            sizes = delivery.Sizes(
                events=options.events or 20_000,
                celery_events=options.celery_events,
                celery_pool=options.celery_pool,
                rounds=options.rounds,
            )
            result = delivery.measure(sizes)
            found[row] = result
            text = delivery_text(result)
        elif row == "memory":
            memories = memory.measure(options.waiting)
            found[row] = memories
            text = memory_text(memories)
        elif row == "neighbours":
            beside = neighbours.measure(neighbours.Sizes(seconds=options.seconds, rounds=options.rounds))
            found[row] = beside
            text = neighbours_text(beside)
        elif row == "drill":
            drilled = drill.measure(
                drill.Sizes(
                    events=options.events or 100_000, hours=options.hours, compress=options.compress, rate=options.rate
                )
            )
            found[row] = drilled
            text = drill_text(drilled)
        elif row == "cluster":
            spread = cluster.measure(cluster.Sizes(events=options.events or 20_000))
            found[row] = spread
            text = cluster_text(spread)
        elif row in POLL_ROWS:
            found[row], text = POLL_ROWS[row](options)
        else:
            track = tracking.measure(
                tracking.Sizes(
                    messages=options.messages, celery_sessions=options.celery_sessions, rounds=options.rounds
                )
            )
            found[row] = track
            text = tracking_text(track)
        if not options.json:
            sys.stdout.write(text)
            sys.stdout.flush()
    if options.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found)).decode() + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    rows = ["delivery", "tracking", "memory", "neighbours", "drill", "cluster", *POLL_ROWS]
    parser.add_argument("rows", nargs="*", choices=[*rows, []], help="what to measure")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts (3)")
    parser.add_argument("--events", type=int, help="delivery: events a round (20,000); drill: that wait (100,000)")
    parser.add_argument("--celery-events", type=int, default=1_000, help="delivery: of them by Celery tasks (1,000)")
    parser.add_argument("--celery-pool", choices=["prefork", "threads"], default="prefork", help="(prefork)")
    parser.add_argument("--messages", type=int, default=500, help="tracking: messages of 100 sessions a round (500)")
    parser.add_argument("--celery-sessions", type=int, default=1_000, help="tracking: sessions by plain tasks (1,000)")
    parser.add_argument("--waiting", type=int, default=200_000, help="memory: deliveries that wait (200,000)")
    parser.add_argument("--seconds", type=int, default=20, help="neighbours: how long each is measured (20)")
    parser.add_argument("--hours", type=float, default=6, help="drill: how long the receiver is down (6)")
    parser.add_argument("--compress", type=float, default=360, help="drill: what all its waits are divided by (360)")
    parser.add_argument("--rate", type=float, help="drill: its subscription's --rate (no limit)")
    parser.add_argument("--calls", type=int, default=100, help="polling, growth: calls of 100 sessions a round (100)")
    parser.add_argument(
        "--tracked", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="growth: sessions that wait"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def delivery_text(result: delivery.Delivery) -> str:
    ours, bare, signing, celery = result.bridge, result.bare, result.signing, result.celery
    table = [
        ("sender", "events/s", "CPU µs/event", "round trips/event"),
        ("bridge", f"{ours['rate']:,.0f}", f"{ours['cpu']:,.1f}", f"{ours['round trips']:.4f}"),
        ("libcurl alone, 50 connections", f"{bare['rate']:,.0f}", f"{bare['cpu']:,.1f}", ""),
        ("libcurl, rendering and signing", f"{signing['rate']:,.0f}", f"{signing['cpu']:,.1f}", ""),
        ("Celery task + requests.post", f"{celery['rate']:,.0f}", f"{celery['cpu']:,.1f}", ""),
        ("  its publisher", "", f"{celery['publish']:,.1f}", ""),
    ]
    goals = [
        ("target", "wanted", "measured", ""),
        goal("events/s, of libcurl alone", "≥ 60 %", 100 * ours["rate"] / bare["rate"], "%", low=60),
        goal("CPU, of libcurl alone", "≤ 1.6 ×", ours["cpu"] / bare["cpu"], "×", high=1.6),
        shown("events/s, of libcurl that signs", 100 * ours["rate"] / signing["rate"], "%"),
        shown("CPU, of libcurl that signs", ours["cpu"] / signing["cpu"], "×"),
        goal("less CPU than Celery + requests", "≥ 40 ×", celery["cpu"] / ours["cpu"], "×", low=40),
        goal("round trips an event", "≤ 0.1", ours["round trips"], "", high=0.1),
    ]
    return text_of("delivery", result.about, table, goals)


def tracking_text(result: tracking.Tracking) -> str:
    table: list[Row] = [("sender", "sessions/s", "CPU µs/session", "of it sender", "of it worker")]
    for name, one in (("bridge.track, 100 a message", result.bridge), ("Celery task a session", result.celery)):
        table.append(
            (name, f"{one['rate']:,.0f}", f"{one['cpu']:,.1f}", f"{one['sender']:,.1f}", f"{one['worker']:,.1f}")
        )
    goals = [
        ("target", "wanted", "measured", ""),
        goal("CPU a session, all but the server", "≤ 40 µs", result.bridge["cpu"], "µs", high=40),
        shown("less than a plain task a session", result.celery["cpu"] / result.bridge["cpu"], "×"),
    ]
    return text_of("tracking", result.about, table, goals)


def memory_text(result: memory.Memory) -> str:
    table: list[Row] = [("bytes a waiting delivery", "B")]
    table += [(name, f"{size:,.1f}") for name, size in result.bytes.items()]
    goals = [
        ("target", "wanted", "measured", ""),
        goal("a queued delivery, beside the log", "≤ 120 B", result.bytes["queue"], "B", high=120),
    ]
    return text_of("memory", result.about, table, goals)


def neighbours_text(result: neighbours.Neighbours) -> str:
    table: list[Row] = [("healthy receiver", "p50 ms", "p99 ms", "worst ms")]
    for name, one in (("alone", result.alone), (f"beside {neighbours.HANGING} that hang", result.beside)):
        table.append((name, f"{one['p50']:,.1f}", f"{one['p99']:,.1f}", f"{one['worst']:,.1f}"))
    goals = [
        ("target", "wanted", "measured", ""),
        goal("p99, of alone", "≤ 2 ×", result.beside["p99"] / result.alone["p99"], "×", high=2),
    ]
    return text_of("neighbours", result.about, table, goals)


def drill_text(result: drill.Drill) -> str:
    seen, first = result.drained, result.first_after_s / result.within_probe_s
    table: list[Row] = [("the receiver that came back", "")]
    table += [
        ("probes while it was down, in vain", f"{result.probes:,}"),
        ("first event after it was back", f"{result.first_after_s:.2f} s"),
        ("drained in", f"{result.took_s:.1f} s"),
        ("events/s", f"{result.rate:,.0f}"),
        ("worker's CPU µs/event", f"{result.cpu:,.1f}"),
        ("worker's memory, idle and at most", f"{_mega(result.idle_rss)} and {_mega(result.rss)}"),
        ("events that came again", f"{seen.repeated:,}"),
    ]
    beside: list[Row] = [("the healthy one meanwhile", "events", "p50 ms", "p99 ms", "worst ms")]
    for phase, one in result.beside.items():
        beside.append((phase, f"{one['events']:,}", f"{one['p50']:,.1f}", f"{one['p99']:,.1f}", f"{one['worst']:,.1f}"))
    goals = [
        ("target", "wanted", "measured", ""),
        goal("events out of their phone's order", "0", seen.out_of_order, "", high=0),
        goal("left waiting, or dead", "0", result.waiting + result.dead, "", high=0),
        goal("first event, of a probe's wait and a tick", "≤ 1 ×", first, "×", high=1),
        goal("1,000 events a second of a core", "≥ 5", 1000 / result.cpu, "", low=5),
        goal("worker's memory", "≤ 200 MB", result.rss / 1e6, "MB", high=200),
    ]
    return text_of("drill", result.about, table, beside, goals)


def _mega(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def cluster_text(result: cluster.Cluster) -> str:
    heads = {
        "rate": "events/s",
        "workers": "CPU µs/event, workers",
        "servers": "CPU µs/event, servers",
        "calls": "script calls/event",
        "spread": "busiest master, of the mean",
        "shard by bytes": "hottest shard, of the mean, by bytes",
        "other by bytes": "hottest other key, of a shard, by bytes",
        "shard by CPU": "hottest shard, of the mean, by time",
        "other by CPU": "hottest other key, of a shard, by time",
    }
    table: list[Row] = [("workers", *(f"{number}" for number in result.figures))]
    table += [(head, *(f"{one[name]:,.4g}" for one in result.figures.values())) for name, head in heads.items()]
    hottest = max(max(one["shard by bytes"], one["other by bytes"]) for one in result.figures.values())
    goals = [
        ("target", "wanted", "measured", ""),
        goal("hottest key, of its share", "≤ 1.2 ×", hottest, "×", high=1.2),
    ]
    return text_of("cluster", result.about, table, goals)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
