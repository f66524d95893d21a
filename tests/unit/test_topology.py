"""What a cluster and Sentinels say of themselves is read right, and judged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.cli.doctor_findings import Verdict
from bridge.cli.doctor_topology import cluster_findings, sentinel_findings
from bridge.domain.topology import SLOTS, Member, Sentinels, count_slots, read_members, read_sentinels

NODES = """\
aaa 10.0.0.1:6379@16379,one.example myself,master - 0 0 1 connected 0-5460 [7->-bbb]
bbb 10.0.0.2:6379@16379 master - 0 1 2 connected 5461-10922
ccc 10.0.0.3:6379@16379 master,fail - 0 1 3 disconnected 10923-16383
ddd 10.0.0.4:6379@16379 slave aaa 0 1 1 connected
eee :0@0 master,noaddr - 0 1 4 disconnected
"""


def member(name: str, *, master: str = "", failed: bool = False, slots: int = 0) -> Member:
    return Member(name, name, not master, master, failed, slots, 0)


def well() -> list[Member]:
    masters = [member("a", slots=5461), member("b", slots=5462), member("c", slots=5461)]
    return [*masters, *(member(f"{one.name}2", master=one.id) for one in masters)]


def test_the_answer_to_cluster_nodes_is_read() -> None:
    by_id = {one.id: one for one in read_members(NODES)}
    assert by_id["aaa"] == Member("aaa", "10.0.0.1:6379", True, "", False, 5461, 1)
    assert by_id["ccc"].is_failed
    assert (by_id["ddd"].is_master, by_id["ddd"].master) == (False, "aaa")
    assert by_id["eee"].is_failed
    assert sum(one.slots for one in by_id.values()) == SLOTS


@given(st.lists(st.tuples(st.integers(0, SLOTS - 1), st.integers(0, 50)), max_size=20))
def test_ranges_are_counted(ranges: list[tuple[int, int]]) -> None:
    parts = [str(first) if not more else f"{first}-{first + more}" for first, more in ranges]
    assert count_slots([*parts, "[5->-abc]", "[6-<-abc]"]) == sum(more + 1 for _, more in ranges)


@given(st.text())
def test_any_answer_is_read(text: str) -> None:
    read_members("\n".join(line for line in text.splitlines() if len(line.split()) < 8))


def test_a_whole_cluster_is_well() -> None:
    (finding,) = cluster_findings(well())
    assert finding.verdict is Verdict.OK
    assert finding.detail == "cluster of 3 masters and 3 replicas, all slots served"


def test_a_master_that_failed_is_told_with_what_waits() -> None:
    members = [*well()[1:], member("a", failed=True, slots=5461)]
    verdicts = [(one.verdict, one.detail) for one in cluster_findings(members)]
    assert verdicts[0][0] is Verdict.FAIL
    assert "only 10,923 of 16,384" in verdicts[0][1]
    assert verdicts[1] == (Verdict.FAIL, "master a is failing")


def test_a_replica_that_failed_and_a_master_without_one_are_warned_of() -> None:
    members = [*well()[:-1], member("d", master="nobody", failed=True)]
    assert {one.verdict for one in cluster_findings(members)} == {Verdict.WARN}
    assert "no replica of c" in " ".join(one.detail for one in cluster_findings(members))


def answer(**said: str) -> dict[str, str]:
    return {"ip": "h", "port": "1", "num-slaves": "1", "num-other-sentinels": "2", "quorum": "2", **said}


def test_sentinels_are_judged() -> None:
    good = read_sentinels("mine", {"a": answer(), "b": answer(), "c": answer()})
    assert good == Sentinels(3, [], "h:1", 1, 2, 3, False)
    assert [one.verdict for one in sentinel_findings(good)] == [Verdict.OK]
    down = read_sentinels("mine", {"a": answer(is_odown="True"), "b": None})
    assert [one.verdict for one in sentinel_findings(down)] == [Verdict.FAIL, Verdict.WARN]
    silent = read_sentinels("mine", {"a": None})
    assert silent.is_down
    assert silent.master == "mine"
    alone = read_sentinels("mine", {"a": answer(**{"num-slaves": "0"})})
    assert [one.detail.rpartition(": ")[2] for one in sentinel_findings(alone)] == ["nobody can take over"]
    few = read_sentinels("mine", {"a": answer(**{"num-other-sentinels": "1"})})
    assert [one.verdict for one in sentinel_findings(few)] == [Verdict.WARN]


def test_each_flag_that_means_trouble_is_one() -> None:
    lines = [
        f"id{number} 127.0.0.1:{number},host@with-at {flags} - 0 0 1 connected {slots}"
        for number, (flags, slots) in enumerate(
            [
                ("master", "0-5 [7->-x]"),
                ("master,fail", "[8->-x] 9"),
                ("master,fail?", ""),
                ("noaddr", ""),
                ("handshake", ""),
            ]
        )
    ]
    found = read_members("\n".join(["a line that is none", *lines]))
    assert [(one.name, one.is_failed, one.slots, one.moving) for one in found] == [
        ("127.0.0.1:0,host", False, 6, 1),
        ("127.0.0.1:1,host", True, 1, 1),
        ("127.0.0.1:2,host", True, 0, 0),
        ("127.0.0.1:3,host", True, 0, 0),
        ("127.0.0.1:4,host", True, 0, 0),
    ]


def test_the_sentinel_that_knows_most_others_is_believed() -> None:
    few = {"ip": "10.0.0.1", "port": "1", "num-other-sentinels": "1", "num-slaves": "7", "quorum": "9"}
    most = {"ip": "10.0.0.2", "port": "2", "num-other-sentinels": "2", "num-slaves": "3", "quorum": "4"}
    for answers in ({"a": few, "b": most, "c": {}, "d": None}, {"b": most, "c": {}, "a": few, "d": None}):
        found = read_sentinels("main", answers)
        assert found == Sentinels(4, ["d"], "10.0.0.2:2", 3, 4, 3, is_down=False)


def test_what_no_sentinel_says_is_nought() -> None:
    assert read_sentinels("main", {"a": {}}) == Sentinels(1, [], "main", 0, 0, 1, is_down=False)
    assert read_sentinels("main", {"a": {"ip": "10.0.0.1"}}).master == "main"
    assert read_sentinels("main", {"a": None}) == Sentinels(1, ["a"], "main", 0, 0, 0, is_down=True)
    for field in ("is_sdown", "is_odown"):
        assert read_sentinels("main", {"a": {field: "True"}}).is_down
