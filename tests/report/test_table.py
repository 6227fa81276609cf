"""The terminal's tables say every number of the documents, with its definition, and read no name as markup."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from parsim.comparison import compare
from parsim.metrics import BUBBLE_DEFINITIONS
from parsim.report import print_comparison, print_schedule, print_schedules, print_simulation
from parsim.report.columns import print_table
from parsim.timeline import Timeline

BUBBLE = {"of_makespan": 3 / 11, "of_span": 0.25, "over_ideal": 0.375}


def schedule_document(name: str = "1f1b", over_ideal: float = 0.375) -> dict[str, Any]:
    return {
        "schedule": name,
        "pp": 4,
        "microbatches": 8,
        "stages_per_rank": 1,
        "times": {"F": 1.0, "I": 1.0, "W": [1.0, 1.0, 1.2, 1.0], "B": 2.0, "P2P": 0.0},
        "makespan": 33.0,
        "ideal": 24.0,
        "bubble": {**BUBBLE, "over_ideal": over_ideal},
        "per_rank": [
            {"rank": rank, "busy": 24.0, "span": 33.0 - rank, "idle": 9.0, "peak_activations": 4 - rank}
            for rank in range(4)
        ],
        "orders": [],
    }


SIMULATION: dict[str, Any] = {
    "step_time_s": 5.0,
    "tokens_per_s": 805_306.0,
    "tokens_per_s_per_gpu": 1572.0,
    "model_tflops_per_gpu": 430.2,
    "mfu": 0.435,
    "bubble": BUBBLE,
    "exposed_s": {"pipeline": 0.5, "tp": 0.75, "cp": 0.0},
    "peak_memory_bytes": 60 * 2**30,
    "fits": False,
    "per_rank": [
        {
            "pipeline_rank": rank,
            "busy_s": 4.5,
            "idle_s": 0.5,
            "peak_memory_bytes": (60 - rank) * 2**30,
            "peak_at": "(2F3;5B1)OVERLAP_F_B",
            "memory_by_category": {"parameters": 2**34, "activations": 2**35, "reserve": 0.0},
        }
        for rank in range(2)
    ],
    "evidence": {"assumed": ["run.a", "run.b"], "fitted": ["gpu.efficiency"]},
    "warnings": ["does not [fit]"],
    "run": {},
}


def printed(show: Callable[..., None], *arguments: Any, width: int = 132) -> str:
    out = io.StringIO()
    show(*arguments, console=Console(file=out, width=width, highlight=False))
    return out.getvalue()


def test_a_schedule_prints_its_ranks_and_definitions() -> None:
    text = printed(print_schedule, schedule_document())
    for expected in ("1f1b: 4 pipeline ranks, 8 micro-batches", "W=1:1:1.2:1", "27.27%", "37.50%", "25.00%"):
        assert expected in text
    assert all(definition in text for definition in BUBBLE_DEFINITIONS.values())
    rows = [line.split() for line in text.splitlines() if line.split() and line.split()[0] in "0123"]
    assert rows == [[str(r), "24", "9", str(33 - r), str(4 - r)] for r in range(4)]


def test_all_schedules_are_sorted_and_refusals_have_reasons() -> None:
    document = {
        "schedules": [schedule_document("[red]slow", 0.5), schedule_document("quick", 0.1)],
        "refused": [{"schedule": "dualpipe", "reason": "needs m >= 2p: [bold]16 would do"}],
    }
    text = printed(print_schedules, document)
    assert text.index("quick") < text.index("[red]slow")
    assert "not here: dualpipe: needs m >= 2p: [bold]16 would do" in text


def test_a_simulation_prints_where_the_step_goes() -> None:
    text = printed(print_simulation, SIMULATION)
    for expected in ("5 s", "43.5%", "60 GiB", "does not fit", "warning: does not [fit]", "2 assumed, 1 fitted"):
        assert expected in text
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
    assert lines["compute"] == ["compute", "3.75", "s", "75.0%"]
    assert lines["tp"] == ["tp", "750", "ms", "15.0%"]
    assert "cp" not in lines, "what costs nothing is not listed"
    assert "reserve" not in text
    assert lines["1"][-4:] == ["16", "GiB", "32", "GiB"]


@pytest.mark.parametrize("show", [print_schedule, print_schedules, print_simulation])
def test_a_narrow_terminal_cuts_no_number(show: Callable[..., None]) -> None:
    document = {
        print_schedule: schedule_document(),
        print_schedules: {"schedules": [schedule_document()]},
        print_simulation: SIMULATION,
    }[show]
    assert "…" not in printed(show, document, width=100)


def test_a_comparison_prints_causes_that_add_up(played: Callable[..., Timeline]) -> None:
    a, b = played("zb-h1", 4, 8, unit=0.03), played("zb-h1", 4, 8, unit=0.034)
    text = printed(print_comparison, compare(a, b).document(), ("a[b].json", "b.json"))
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
    assert lines["makespan"] == ["makespan", "0.84", "0.952", "+0.112"]
    assert lines["idle"][-1] == "+0.014"
    assert "a[b].json" in text
    assert "1.133" in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 132])
def test_every_number_stands_whole_at_any_width(width: int) -> None:
    rows = [[f"rank{rank}", *(f"{rank}{place}.25 GiB" for place in range(12)), "words " * 20] for rank in (1, 2)]
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    print_table(console, ["who", *(f"column {place}" for place in range(12)), "why"], rows)
    text = out.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    assert all(cell in text for row in rows for cell in row[:-1])
    assert text.count("words") == 40
    assert all(f"column {place}" in text for place in range(12))
