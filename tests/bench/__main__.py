"""Measure, and print targets beside figures.

python -m tests.bench all --report DIR [--long]   every row; writes DIR/<date>.json, and its table and charts
python -m tests.bench ROW…                        some rows
python -m tests.bench report FILE.json            the table and the charts of a run that was kept
python -m tests.bench compare OLD.json NEW.json   what got worse beyond the spread: exit code 1 if anything did
python -m tests.bench sizing                      the README's table on sizing: arithmetic
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.bench import compare, machine, record, report, sizing, tables
from tests.bench.figures import Measured
from tests.bench.rows import LONG_ROWS, ROWS, Benchmark

_ALL = ROWS | LONG_ROWS


def main(argv: Sequence[str]) -> int:
    """Do what was asked for."""
    match list(argv):
        case ["sizing"]:
            needs = tuple(sizing.need(sms_a_day) for sms_a_day in sizing.SMS_A_DAY)
            sys.stdout.write(tables.markdown(sizing.table(needs)))
            return 0
        case ["compare", old, new]:
            return _compare(Path(old), Path(new))
        case ["report", path]:
            sys.stdout.writelines(f"{written}\n" for written in report.write(Path(path)))
            return 0
        case _:
            return _measure(argv)


def _compare(old: Path, new: Path) -> int:
    before, now = record.decode(old.read_bytes()), record.decode(new.read_bytes())
    found = compare.changes(before, now)
    sys.stdout.write(
        f"libcurl alone took {compare.slowdown(before, now):.2f} × as much CPU: times are divided by it\n\n"
    )
    sys.stdout.writelines(f"{line}\n" for line in tables.aligned(compare.change_rows(found)))
    worse = sum(change.is_worse for change in found)
    sys.stdout.write(f"\n{worse} of {len(found)} figures got worse beyond their spread\n")
    return 1 if worse else 0


def _measure(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    chosen = _chosen(options)
    load_before, began_s = machine.load(), time.monotonic()
    rows: dict[str, Measured] = {}
    for place, (name, benchmark) in enumerate(chosen.items(), 1):
        sys.stderr.write(f"[{place}/{len(chosen)}, {time.monotonic() - began_s:.0f} s] {name}\n")
        one_s = time.monotonic()
        try:
            measured = benchmark(options)
        except Exception:  # noqa: BLE001 - told here, in the report and by the exit code; the other rows are kept
            traceback.print_exc()
            continue
        rows[name] = msgspec.structs.replace(measured, took_s=time.monotonic() - one_s)
        sys.stdout.write(tables.text_of(name, rows[name]))
        sys.stdout.flush()
    run = record.Run(
        date=record.today(),
        command=" ".join(["python -m tests.bench", *argv]),
        about=machine.describe(),
        load_before=load_before,
        load_after=machine.load(),
        took_s=time.monotonic() - began_s,
        rows=rows,
        failed=tuple(name for name in chosen if name not in rows),
    )
    if options.report is not None:
        path = record.save(run, options.report)
        sys.stderr.writelines(f"{written}\n" for written in [path, *report.write(path)])
    return 1 if run.failed else 0


def _chosen(options: argparse.Namespace) -> dict[str, Benchmark]:
    if options.rows == ["all"]:
        return _ALL if options.long else ROWS
    return {name: _ALL[name] for name in options.rows}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="+", choices=["all", *_ALL], metavar="ROW", help=", ".join(["all", *_ALL]))
    parser.add_argument("--report", type=Path, metavar="DIR", help="keep the results in DIR")
    parser.add_argument("--long", action="store_true", help=f"with all: {', '.join(LONG_ROWS)} too")
    parser.add_argument("--small", action="store_true", help="tiny sizes: to see that it works, not to measure")
    parser.add_argument(
        "--rounds", type=int, help="rounds, of which the median counts (3; delivery: 9; tls, neighbours: 5)"
    )
    parser.add_argument(
        "--events", type=int, help="events a round; latency: sessions due at once; backlog: events that wait"
    )
    parser.add_argument("--few", type=int, help="delivery, tracking: items by senders that are slow (500; 1,000)")
    parser.add_argument("--celery-pool", choices=["prefork", "threads"], default="prefork", help="delivery (prefork)")
    parser.add_argument("--messages", type=int, help="tracking: messages of 100 sessions a round (500)")
    parser.add_argument("--waiting", type=int, help="memory: deliveries that wait (200,000)")
    parser.add_argument("--seconds", type=int, help="neighbours, latency (8), idle (10): how long each is measured")
    parser.add_argument("--hours", type=float, default=3, help="backlog: how long the receiver is down (3)")
    parser.add_argument("--compress", type=float, default=360, help="backlog: what all its waits are divided by (360)")
    parser.add_argument("--rate", type=float, help="backlog, paced: its subscription's --rate (no limit; 5,000)")
    parser.add_argument("--calls", type=int, help="polling, growth: calls of 100 sessions a round (40)")
    parser.add_argument("--due", type=int, help="polling: sessions that are due for full calls (20,000)")
    parser.add_argument("--tracked", type=int, nargs="+", help="growth: sessions that wait (10,000 100,000 1,000,000)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
