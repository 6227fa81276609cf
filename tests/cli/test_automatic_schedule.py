"""zb-auto on the command line: planned for the times and the memory limit that it is then played and held to."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

Cli = Callable[..., Any]
LINE = ("schedule", "zb-auto", "--pp", 4, "--microbatches", 12)
TIMES = ("--times", "F=1,I=1.1,W=0.5,P2P=0.1")


def said(cli: Cli, *arguments: object) -> dict[str, Any]:
    found = cli(*arguments, "--json", "-")
    assert (found.code, found.err) == (0, "")
    return dict(json.loads(found.out))


@pytest.mark.parametrize("limit", [1, 2.5, 4, 8])
def test_planned_for_the_limit_that_it_is_held_to(cli: Cli, limit: float) -> None:
    found = said(cli, *LINE, *TIMES, "--memory-limit", limit)
    assert max(row["peak_activations"] for row in found["per_rank"]) <= limit


def test_planned_for_the_times_that_it_is_played_by(cli: Cli) -> None:
    alike = said(cli, *LINE, "--memory-limit", 8)
    timed = said(cli, *LINE, *TIMES, "--memory-limit", 8)
    assert timed["orders"] != alike["orders"]
    cli(*LINE, "--memory-limit", 8, "--csv", "alike.csv")
    not_meant_for_it = said(cli, "schedule", "--plan", "alike.csv", *TIMES)
    assert timed["makespan"] < not_meant_for_it["makespan"]


def test_among_all_it_fits_the_limit_and_none_of_its_kin_is_faster(cli: Cli) -> None:
    found = said(cli, "schedule", "all", "--pp", 4, "--microbatches", 12, *TIMES, "--memory-limit", 7)
    makespans = {played["schedule"]: played["makespan"] for played in found["schedules"]}
    assert set(makespans) >= {"zb-auto", "zb-h1", "zb-h2", "1f1b"}
    kin = min(makespans["zb-h1"], makespans["zb-h2"], makespans["1f1b"])
    assert makespans["zb-auto"] <= kin * (1 + 1e-9)


def test_in_a_run(cli: Cli) -> None:
    automatic = ("simulate", "run.yaml", "--set", "layout.schedule=zb-auto")
    named = said(cli, "simulate", "run.yaml", "--set", "layout.schedule=zb-h1")["step_time_s"]
    assert said(cli, *automatic)["step_time_s"] <= named * (1 + 1e-9)
    more = said(cli, *automatic, "--set", "layout.activation_limit_stages=4")
    assert more["run"]["layout"]["activation_limit_stages"] == 4
    assert more["step_time_s"] <= named * (1 + 1e-9)


@pytest.mark.parametrize(
    ("arguments", "reads"),
    [
        ((*LINE, "--memory-limit", 0.5), "needs at least 1 activation of a stage; 1 would do"),
        ((*LINE, "--memory-limit", 0), "1 would do"),
        ((*LINE, "--times", "F=1:2"), "lists 2 stages, the plan has 4"),
        ((*LINE, "--group-size", 4), "zb-auto has no option 'group_size'"),
        ((*LINE, "--stages-per-rank", 2), "1 would do"),
        (("simulate", "run.yaml", "--set", "layout.activation_limit_stages=2"), "1f1b has no option"),
        (("simulate", "run.yaml", "--set", "layout.activation_limit_stages=0.5"), "at least 1"),
    ],
)
def test_refused_in_a_line(refused: Callable[[Sequence[object]], str], arguments: Sequence[object], reads: str) -> None:
    assert reads in refused(arguments)
