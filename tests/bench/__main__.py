"""``python -m tests.bench [ROW]…``: measure, and print targets beside figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import msgspec

from tests.bench import cluster, delivery, drill, memory, neighbours, tracking

Row = tuple[str, ...]


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
    parser.add_argument(
        "rows",
        nargs="*",
        choices=["delivery", "tracking", "memory", "neighbours", "drill", "cluster", []],
        help="what to measure",
    )
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
        _goal("events/s, of libcurl alone", "≥ 60 %", 100 * ours["rate"] / bare["rate"], "%", low=60),
        _goal("CPU, of libcurl alone", "≤ 1.6 ×", ours["cpu"] / bare["cpu"], "×", high=1.6),
        _shown("events/s, of libcurl that signs", 100 * ours["rate"] / signing["rate"], "%"),
        _shown("CPU, of libcurl that signs", ours["cpu"] / signing["cpu"], "×"),
        _goal("less CPU than Celery + requests", "≥ 40 ×", celery["cpu"] / ours["cpu"], "×", low=40),
        _goal("round trips an event", "≤ 0.1", ours["round trips"], "", high=0.1),
    ]
    return _text("delivery", result.about, table, goals)


def tracking_text(result: tracking.Tracking) -> str:
    table: list[Row] = [("sender", "sessions/s", "CPU µs/session", "of it sender", "of it worker")]
    for name, one in (("bridge.track, 100 a message", result.bridge), ("Celery task a session", result.celery)):
        table.append(
            (name, f"{one['rate']:,.0f}", f"{one['cpu']:,.1f}", f"{one['sender']:,.1f}", f"{one['worker']:,.1f}")
        )
    goals = [
        ("target", "wanted", "measured", ""),
        _goal("CPU a session, all but the server", "≤ 40 µs", result.bridge["cpu"], "µs", high=40),
        _shown("less than a plain task a session", result.celery["cpu"] / result.bridge["cpu"], "×"),
    ]
    return _text("tracking", result.about, table, goals)


def memory_text(result: memory.Memory) -> str:
    table: list[Row] = [("bytes a waiting delivery", "B")]
    table += [(name, f"{size:,.1f}") for name, size in result.bytes.items()]
    goals = [
        ("target", "wanted", "measured", ""),
        _goal("a queued delivery, beside the log", "≤ 120 B", result.bytes["queue"], "B", high=120),
    ]
    return _text("memory", result.about, table, goals)


def neighbours_text(result: neighbours.Neighbours) -> str:
    table: list[Row] = [("healthy receiver", "p50 ms", "p99 ms", "worst ms")]
    for name, one in (("alone", result.alone), (f"beside {neighbours.HANGING} that hang", result.beside)):
        table.append((name, f"{one['p50']:,.1f}", f"{one['p99']:,.1f}", f"{one['worst']:,.1f}"))
    goals = [
        ("target", "wanted", "measured", ""),
        _goal("p99, of alone", "≤ 2 ×", result.beside["p99"] / result.alone["p99"], "×", high=2),
    ]
    return _text("neighbours", result.about, table, goals)


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
        _goal("events out of their phone's order", "0", seen.out_of_order, "", high=0),
        _goal("left waiting, or dead", "0", result.waiting + result.dead, "", high=0),
        _goal("first event, of a probe's wait and a tick", "≤ 1 ×", first, "×", high=1),
        _goal("1,000 events a second of a core", "≥ 5", 1000 / result.cpu, "", low=5),
        _goal("worker's memory", "≤ 200 MB", result.rss / 1e6, "MB", high=200),
    ]
    return _text("drill", result.about, table, beside, goals)


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
        _goal("hottest key, of its share", "≤ 1.2 ×", hottest, "×", high=1.2),
    ]
    return _text("cluster", result.about, table, goals)


def _goal(what: str, wanted: str, measured: float, unit: str, *, low: float = 0.0, high: float = float("inf")) -> Row:
    return what, wanted, f"{measured:.3g} {unit}".rstrip(), "holds" if low <= measured <= high else "MISSED"


def _shown(what: str, measured: float, unit: str) -> Row:
    return what, "", f"{measured:.3g} {unit}", ""


def _text(title: str, about: dict[str, str], *tables: Sequence[Row]) -> str:
    lines = [title, ", ".join(f"{name}: {value}" for name, value in about.items()), ""]
    for table in tables:
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        for row in table:
            cells = [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
            lines.append("  ".join(cells).rstrip())
        lines.append("")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
