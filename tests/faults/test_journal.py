"""What workers write down survives how they end."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.faults.gathering import journal, lines_of
from tests.faults.inside.journal import Journal
from tests.parts import until


def test_a_line_that_a_kill_cut_off_takes_no_other_with_it(tmp_path: Path) -> None:
    """Fault: all wrote to one file. A ``kill -9`` amid a line that went over a page's end left its first half, and the
    next process's line went on from there: nothing was known of either, and a soak of an hour broke off.
    """
    first = Journal(str(tmp_path), time.time_ns)
    first.add("sent", name="1-1")
    first.add("sent", name="1-2")
    os.truncate(tmp_path / str(os.getpid()), (tmp_path / str(os.getpid())).stat().st_size - 5)
    (tmp_path / "0").write_text((tmp_path / str(os.getpid())).read_text().replace("1-1", "0-1"))
    assert journal(lines_of(tmp_path)).attempts.keys() == {"0-1", "1-1"}


def test_until_when_a_process_had_its_turns_is_known_though_it_is_killed_in_the_next_moment(tmp_path: Path) -> None:
    mine = Journal(str(tmp_path), time.time_ns)
    mine.watch_standstills()
    began_ms = time.time_ns() // 1_000_000
    until(lambda: journal(lines_of(tmp_path)).last_ms.get(os.getpid(), 0) > began_ms + 200)
