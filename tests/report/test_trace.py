"""The trace is what Perfetto opens: plain JSON, sorted, and no two events of a thread overlap."""

import json
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise

import pytest

from parsim.report import trace
from parsim.timeline import Timeline

Play = Callable[..., Timeline]


@pytest.mark.parametrize("name", ["1f1b", "zb-h1", "dualpipe"])
def test_a_trace_is_well_formed(played: Play, name: str) -> None:
    timeline = played(name, 4, 8, unit=0.01, memory=True)
    document = json.loads(json.dumps(trace(timeline), allow_nan=False))
    assert document["distributedInfo"] == {"rank": 0, "world_size": 4}
    events = [event for event in document["traceEvents"] if event["ph"] != "M"]
    assert [event["ts"] for event in events] == sorted(event["ts"] for event in events)
    complete = [event for event in events if event["ph"] == "X"]
    assert sorted((event["pid"], event["name"]) for event in complete) == sorted(
        (span.rank, str(span.op)) for span in timeline.spans
    )
    threads = defaultdict(list)
    for event in complete:
        assert event["dur"] >= 0
        threads[event["pid"], event["tid"]].append(event)
    for row in threads.values():
        assert all(a["ts"] + a["dur"] <= b["ts"] + 1e-3 for a, b in pairwise(row)), "events of a thread overlap"
    names = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in document["traceEvents"]
        if event["name"] == "thread_name"
    }
    assert set(names) == set(threads), "every thread has a name, and no other"
    assert len(threads) == len(names) == 4 * (3 if name == "dualpipe" else 2)


def test_times_are_microseconds_and_memory_is_a_counter(played: Play) -> None:
    timeline = played("1f1b", 2, 2, unit=0.01, memory=True)
    events = trace(timeline)["traceEvents"]
    last = next(event for event in events if event["name"] == "0B1")
    span = next(span for span in timeline.spans if str(span.op) == "0B1")
    assert (last["ts"], last["dur"]) == pytest.approx((span.start_s * 1e6, (span.end_s - span.start_s) * 1e6))
    assert last["args"] == {"stage": 0, "microbatch": 1, "waiting_us": pytest.approx(span.waiting_s * 1e6)}
    counters = [event for event in events if event["ph"] == "C"]
    assert len(counters) == len(timeline.memory)
    assert set(counters[0]["args"]) == set(timeline.memory[0].bytes)


def test_a_pair_names_its_partner(played: Play) -> None:
    events = trace(played("dualpipe", 4, 8))["traceEvents"]
    partners = {event["name"]: event["args"]["pair"] for event in events if "pair" in event.get("args", {})}
    assert partners
    assert all(partners[other] == op for op, other in partners.items())
