"""What is measured to price a run, and the cost file that comes of it; recordings are made up."""

import json
from typing import Any

import pytest

from executor.calibrate import (
    collective_rows,
    cost_document,
    full_backwards,
    hop_of,
    link_job_of,
    split_backwards,
    variants_of,
)
from executor.job import Job, job_of
from executor.links import CollectiveTime, LinkRecord, MessageTime, bus_factor
from executor.run_command import run_of_plan
from parsim.cost import cost_from_document, parse_times
from parsim.plan import Kind, check
from parsim.run_plan import plan_of
from parsim.schedules import build, names
from parsim.sim import compile_plan, play, prices, recording
from parsim.simulation import simulate
from parsim.timeline import Timeline

LINKS = [
    LinkRecord(
        0,
        (MessageTime(0, 1, 8, 1e-4, 1e-4, 1e-4), MessageTime(0, 1, 32768, 3e-4, 2e-4, 4e-4)),
        (CollectiveTime("all_reduce", 4, 2**20, 0.002), CollectiveTime("all_gather", 4, 2**20, 0.001)),
    ),
    LinkRecord(1, (), (CollectiveTime("all_reduce", 4, 2**20, 0.004), CollectiveTime("all_gather", 4, 2**20, 0.0005))),
]


def job(schedule: str, **options: Any) -> Job:
    plan = build(schedule, 4, 8)
    return job_of(run_of_plan(plan), plan, steps=1, **options)


@pytest.mark.parametrize("schedule", names())
def test_together_the_plans_play_every_kind_on_every_stage(schedule: str) -> None:
    own = job(schedule)
    jobs = (own, *variants_of(own))
    played = {(op.kind, op.stage) for each in jobs for _, op in each.plan.ops()}
    stages = range(own.plan.placement.stages)
    assert {(kind, stage) for kind in (Kind.F, Kind.B, Kind.I, Kind.W) for stage in stages} <= played
    for variant in (split_backwards(own.plan), full_backwards(own.plan)):
        check(variant)
    assert all(each.ranks == own.ranks for each in jobs)


def timelines(job: Job, text: str) -> list[Timeline]:
    program = compile_plan(job.plan)
    played = play(program, prices(program, parse_times(text)))
    return [Timeline(4, recording(program, played).spans, source="run")]


def test_a_calibrated_file_prices_every_schedule_on_the_same_parts() -> None:
    own = job("1f1b")
    variants = variants_of(own)
    assert len(variants) == 1
    document = cost_document(
        own, [timelines(each, "F=1,I=0.5,W=0.25,B=0.875") for each in (own, *variants)], LINKS, 0.95
    )
    document = json.loads(json.dumps(document, allow_nan=False))
    assert document["ops"]["B"] == [0.875] * 4
    assert document["ops"]["I"] == [0.5] * 4
    assert document["spread"]["F"] == [[1.0, 1.0]] * 4
    assert document["p2p"]["latency_s"] == 1e-4
    for schedule in ("1f1b", "zb-h1", "gpipe"):
        run = own.run.changed(layout=own.run.layout.model_copy(update={"schedule": schedule}))
        cost = cost_from_document(document, plan_of(run).placement, run)
        assert cost.hop_s == pytest.approx(3e-4)
        assert simulate(run, cost=cost).step_time_s > 8 * 1.75


def test_a_message_of_the_runs_size_takes_what_was_measured() -> None:
    own = job("1f1b")
    hop = hop_of(own, LINKS)
    assert hop.message_bytes == 64 * 128 * 4
    assert hop.seconds == pytest.approx(3e-4)
    assert hop.bytes_per_s == pytest.approx(32768 / 2e-4)
    assert hop_of(own, [LinkRecord(0, (), ())]).seconds == 0.0


def test_a_large_message_that_was_no_slower_has_no_bandwidth() -> None:
    fast = [LinkRecord(0, (MessageTime(0, 1, 8, 4e-4, 0, 1), MessageTime(0, 1, 32768, 3e-4, 0, 1)), ())]
    hop = hop_of(job("1f1b"), fast)
    assert hop.bytes_per_s is None
    assert hop.seconds == pytest.approx(3e-4)


def test_links_between_neighbours_are_measured() -> None:
    links = link_job_of(job("1f1b"), collectives=True)
    assert links.pairs == ((0, 1), (1, 2), (2, 3))
    assert 32768 in links.sizes
    assert links.collective_ranks == (2, 4)
    assert (min(links.collective_sizes), max(links.collective_sizes)) == (64 * 2**10, 16 * 2**20)
    assert len(links.labels()) == 3 * len(links.sizes) + 2 * 4 * len(links.collective_sizes)
    assert link_job_of(job("zb-v")).pairs == ((0, 1), (1, 2), (2, 3))
    assert link_job_of(job("1f1b")).collective_ranks == ()


def test_rates_are_those_of_nccl_tests() -> None:
    reduce, gather = collective_rows(LINKS)
    assert reduce["seconds"] == 0.004  # the slowest rank
    assert reduce["algbw_gbps"] == pytest.approx(2**20 / 0.004 / 1e9)
    assert reduce["busbw_gbps"] == pytest.approx(reduce["algbw_gbps"] * 2 * 3 / 4)
    assert gather["busbw_gbps"] == pytest.approx(2**20 / 0.001 / 1e9 * 3 / 4)
    assert [bus_factor(kind, 8) for kind in ("all_to_all", "reduce_scatter")] == [7 / 8, 7 / 8]
