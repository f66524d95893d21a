"""``python -m tests.bench [row…]``: measure, and print targets beside figures; ``--help`` names the rows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import msgspec

from tests.bench.poll_rows import POLL_ROWS
from tests.bench.rows import ROWS

_ROWS = ROWS | POLL_ROWS


def main(argv: Sequence[str]) -> int:
    """Run what was asked for; delivery, tracking and memory without a name."""
    options = _parser().parse_args(argv)
    found: dict[str, object] = {}
    for row in options.rows or ["delivery", "tracking", "memory"]:
        found[row], text = _ROWS[row](options)
        if not options.json:
            sys.stdout.write(text)
            sys.stdout.flush()
    if options.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found)).decode() + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[*_ROWS, []], help="what to measure")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts (3)")
    parser.add_argument(
        "--events",
        type=int,
        help="delivery, cluster: events a round (20,000); drill: that wait (100,000); latency: due at once (10,000)",
    )
    parser.add_argument("--celery-events", type=int, default=1_000, help="delivery: of them by Celery tasks (1,000)")
    parser.add_argument("--celery-pool", choices=["prefork", "threads"], default="prefork", help="(prefork)")
    parser.add_argument("--messages", type=int, default=500, help="tracking: messages of 100 sessions a round (500)")
    parser.add_argument("--celery-sessions", type=int, default=1_000, help="tracking: sessions by plain tasks (1,000)")
    parser.add_argument("--waiting", type=int, default=200_000, help="memory: deliveries that wait (200,000)")
    parser.add_argument(
        "--seconds", type=int, default=20, help="neighbours, latency, idle: how long each is measured (20)"
    )
    parser.add_argument("--hours", type=float, default=6, help="drill: how long the receiver is down (6)")
    parser.add_argument("--compress", type=float, default=360, help="drill: what all its waits are divided by (360)")
    parser.add_argument("--rate", type=float, help="drill: its subscription's --rate (no limit)")
    parser.add_argument("--calls", type=int, default=100, help="polling, growth: calls of 100 sessions a round (100)")
    parser.add_argument(
        "--tracked", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="growth: sessions that wait"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
