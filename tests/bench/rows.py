"""The rows of tracking, delivery and the whole house: what is measured for each, and its tables."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

from tests.bench import cluster, delivery, drill, idle, latency, memory, neighbours, sizing, tracking
from tests.bench.tables import Row, goal, shown, text_of


def _delivery(options: Namespace) -> tuple[object, str]:
    sizes = delivery.Sizes(
        events=options.events or 20_000,
        celery_events=options.celery_events,
        celery_pool=options.celery_pool,
        rounds=options.rounds,
    )
    result = delivery.measure(sizes)
    return result, delivery_text(result)


def _tracking(options: Namespace) -> tuple[object, str]:
    sizes = tracking.Sizes(messages=options.messages, celery_sessions=options.celery_sessions, rounds=options.rounds)
    result = tracking.measure(sizes)
    return result, tracking_text(result)


def _memory(options: Namespace) -> tuple[object, str]:
    result = memory.measure(options.waiting)
    return result, memory_text(result)


def _neighbours(options: Namespace) -> tuple[object, str]:
    result = neighbours.measure(neighbours.Sizes(seconds=options.seconds, rounds=options.rounds))
    return result, neighbours_text(result)


def _latency(options: Namespace) -> tuple[object, str]:
    sizes = latency.Sizes(burst=options.events or 10_000, seconds=options.seconds, rounds=options.rounds)
    result = latency.measure(sizes)
    return result, latency_text(result)


def _idle(options: Namespace) -> tuple[object, str]:
    result = idle.measure(idle.Sizes(seconds=options.seconds, rounds=options.rounds))
    return result, idle_text(result)


def _drill(options: Namespace) -> tuple[object, str]:
    sizes = drill.Sizes(
        events=options.events or 100_000, hours=options.hours, compress=options.compress, rate=options.rate
    )
    result = drill.measure(sizes)
    return result, drill_text(result)


def _cluster(options: Namespace) -> tuple[object, str]:
    result = cluster.measure(cluster.Sizes(events=options.events or 20_000))
    return result, cluster_text(result)


def _sizing(_options: Namespace) -> tuple[object, str]:
    needs = tuple(sizing.need(sms_a_day) for sms_a_day in sizing.SMS_A_DAY)
    return needs, sizing.markdown(sizing.table(needs))


ROWS: dict[str, Callable[[Namespace], tuple[object, str]]] = {
    "delivery": _delivery,
    "tracking": _tracking,
    "memory": _memory,
    "neighbours": _neighbours,
    "latency": _latency,
    "idle": _idle,
    "drill": _drill,
    "cluster": _cluster,
    "sizing": _sizing,
}


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


def latency_text(result: latency.Latency) -> str:
    half = result.half
    table: list[Row] = [
        ("load", "sessions/s", "p50 ms", "p99 ms", "worst ms"),
        ("full", f"{result.full['rate']:,.0f}", "", "", ""),
        ("half", f"{half['rate']:,.0f}", f"{half['p50']:,.1f}", f"{half['p99']:,.1f}", f"{half['worst']:,.1f}"),
    ]
    goals = [
        ("target", "wanted", "measured", ""),
        goal("answer to callback, p50", "≤ 15 ms", half["p50"], "ms", high=15),
        goal("answer to callback, p99", "≤ 100 ms", half["p99"], "ms", high=100),
    ]
    return text_of("latency", result.about, table, goals)


def idle_text(result: idle.Idle) -> str:
    names = ("commands", "worker", "beat", "web")
    table: list[Row] = [("with nothing to do", "commands/s", *(f"{name}, % of a core" for name in names[1:]))]
    for title, one in (("bridge, ten subscriptions", result.bridge), ("plain Celery, a task a second", result.celery)):
        table.append((title, *(f"{one[name]:,.2f}" if name in one else "" for name in names)))
    goals: list[Row] = [("target", "wanted", "measured", "")]
    goals.append(goal("commands a second", "≤ 25", result.bridge["commands"], "", high=25))
    goals += [goal(f"{name}, of a core", "≤ 1 %", result.bridge[name], "%", high=1) for name in names[1:]]
    return text_of("idle", result.about, table, goals)
