"""The planner: the same best layout as playing everything, however many workers, wherever it was interrupted."""

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import parsim
from parsim.errors import SpecError
from parsim.search import SearchResult, search
from parsim.search.explain import explain, faster
from parsim.search.finalists import run_of_entry, switches_of
from parsim.search.grid import AXES, grid_of
from parsim.search.journal import Journal
from parsim.search.sensitivity import sensitivity_of
from parsim.spec.load import search_from_document
from tests.search.brute import every_layout
from tests.search.conftest import document, small


def stable(result: SearchResult) -> str:
    found = result.document()
    found.pop("run_info")
    return json.dumps(found)


@pytest.mark.parametrize("seed", range(4))
def test_finds_what_playing_everything_finds(seed: int) -> None:
    """With every rule of pruning on: as many layouts fit, and the best few are the same."""
    what = small(seed, micro_batch_size=1, stages_per_rank={"most": 2})
    result = search(what, top=5, contention=0)
    every = sorted(every_layout(what), key=lambda layout: layout.step_s)
    assert result.feasible == len(every)
    assert result.certified
    if not every:
        assert result.best is None
        return
    assert result.best is not None
    assert result.best.step_s == pytest.approx(every[0].step_s, rel=1e-9)
    # Layouts of one shape with one cost vector are one entry of the list.
    known = sorted({(layout.shape, round(layout.step_s, 10)) for layout in every}, key=lambda pair: pair[1])
    assert [entry.step_s for entry in result.top] == pytest.approx([step_s for _, step_s in known[:5]], rel=1e-9)
    peaks = {(layout.shape, layout.point): layout.peak_bytes for layout in every}
    for entry in result.top:
        assert entry.found.peak_bytes == pytest.approx(peaks[entry.shape, entry.found.point], rel=1e-12)


@pytest.mark.parametrize(
    ("seed", "gib", "on_host"), [(0, 0.25, "optimizer"), (0, 0.35, "weights"), (2, 0.35, "activations")]
)
def test_what_the_host_keeps_decides_what_fits(seed: int, gib: float, on_host: str) -> None:
    """With little memory the best of all is one that only fits since something is in the node's memory."""
    space: dict[str, Any] = {"micro_batch_size": 1, "stages_per_rank": {"most": 2}, "schedule": ["1f1b", "zb-h1"]}
    space |= {"split": "even", "recompute": ["none", "full"], "zero": [0, 1], "tp": 2, "cp": 1, "dp_overlap": True}
    space |= {"tp_comm": "all_reduce", "tp_overlap": "none", "offload": ["weights", "activations", "optimizer"]}
    what = search_from_document(document(seed, **space) | {"reserve_bytes": (80 - gib) * 2.0**30})
    result, every = search(what, top=5, contention=0), every_layout(what)
    assert result.feasible == len(every)
    assert result.best is not None
    assert switches_of(result.scope, result.best)[f"offload_{on_host}"]
    # Copies of activations only delay: whoever fits without them is not listed with them.
    steps = {(layout.shape, layout.point): layout.step_s for layout in every}
    worth = set()
    for layout in every:
        grid = grid_of(what, layout.shape.mesh)
        index = list(np.unravel_index(layout.point, grid.shape))
        index[AXES.index("offload_activations")] = 0
        without = int(np.ravel_multi_index(index, grid.shape))
        if without == layout.point or (layout.shape, without) not in steps:
            worth.add((layout.shape, round(layout.step_s, 10)))
        else:
            assert steps[layout.shape, without] <= layout.step_s * (1 + 1e-12)
    known = sorted(step_s for _, step_s in worth)[:5]
    assert [entry.step_s for entry in result.top] == pytest.approx(known, rel=1e-9)


def test_a_host_that_is_full_is_a_rule() -> None:
    what = small(2, offload=["weights", "optimizer"], schedule="1f1b", split="even")
    node = what.cluster.node.model_copy(update={"host_memory_bytes": 2.0**28})
    less = what.model_copy(update={"cluster": what.cluster.model_copy(update={"node": node})})
    roomy, full = search(what, contention=0), search(less, contention=0)
    removed = full.document()["removed"]
    assert "host_memory" not in roomy.document()["removed"]
    assert removed["host_memory"] == roomy.feasible - full.feasible > 0


def test_activations_that_are_recomputed_do_not_move() -> None:
    again = {"mode": "full", "layers": 1, "method": "block"}
    what = small(2, offload="activations", recompute=["none", again], schedule="1f1b", split="even")
    removed = search(what, contention=0).document()["removed"]
    assert removed["layout.offload.activations"] > 0


@pytest.mark.parametrize("seed", [1, 5])
def test_finds_the_best_under_contention(seed: int) -> None:
    what = small(seed, micro_batch_size=1, stages_per_rank={"most": 2}, recompute="none", zero=1, split="even")
    every = [layout.step_s for layout in every_layout(what, contention=True)]
    result = search(what, top=10, contention=10)
    found = result.contended[0]
    if not every:
        assert found is None
        return
    assert found is not None
    assert found.best is not None
    assert found.certified
    assert found.step_s[found.best] == pytest.approx(min(every), rel=1e-9)


def test_two_workers_say_the_same() -> None:
    what = small(2)
    assert stable(search(what, jobs=1)) == stable(search(what, jobs=2))


def test_an_interrupted_search_goes_on_and_says_the_same(tmp_path: Path) -> None:
    what = small(3)
    whole = stable(search(what, journal=tmp_path / "whole"))
    lines = (tmp_path / "whole" / "done.jsonl").read_bytes()
    rng = random.Random(0)
    for number in range(6):
        folder = tmp_path / f"cut-{number}"
        folder.mkdir()
        (folder / "search.json").write_bytes((tmp_path / "whole" / "search.json").read_bytes())
        (folder / "done.jsonl").write_bytes(lines[: rng.randrange(len(lines))])
        assert stable(search(what, journal=folder)) == whole
        assert (folder / "done.jsonl").read_bytes() == lines


def test_a_finished_journal_asks_nobody(tmp_path: Path) -> None:
    what = small(3)
    search(what, journal=tmp_path)
    before = (tmp_path / "done.jsonl").stat().st_size
    search(what, journal=tmp_path)
    assert (tmp_path / "done.jsonl").stat().st_size == before


def test_a_journal_belongs_to_one_search(tmp_path: Path) -> None:
    search(small(3), journal=tmp_path)
    with pytest.raises(SpecError, match="another search"):
        search(small(4), journal=tmp_path)
    with pytest.raises(SpecError, match="another search"):
        search(small(3), top=3, journal=tmp_path)


def test_a_line_that_was_changed_is_done_again(tmp_path: Path) -> None:
    with Journal(tmp_path, "{}") as journal:
        journal.put("a", [1])
        journal.put("b", [2])
    path = tmp_path / "done.jsonl"
    path.write_text(path.read_text().replace('"value": [2]', '"value": [3]'))
    with Journal(tmp_path, "{}") as journal:
        assert "a" in journal
        assert "b" not in journal


def test_a_budget_ends_the_search_with_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the clock runs out, the best there is lies within the gap."""
    what = small(2)
    best = search(what, contention=0).best
    assert best is not None
    ended = 0
    for budget in (1, 4, 10, 16, 22, 26):
        asked = iter(range(10**6))
        monkeypatch.setattr(time, "monotonic", lambda asked=asked: float(next(asked)))
        result = search(what, budget_s=float(budget), contention=0)
        ended += not result.certified
        if result.best is not None:
            assert result.gap is not None
            assert result.best.step_s * (1 - result.gap) <= best.step_s * (1 + 1e-9)
    assert ended > 2


def test_the_document_says_what_became_of_every_layout() -> None:
    found = search(small(2)).document()
    assert found["space"] == found["feasible"] + sum(found["removed"].values())
    assert found["certified"]
    assert found["gap"] == 0
    assert {"layout", "step_time_s", "peak_memory_bytes", "run"} <= set(found["best"])
    run = parsim.Run.model_validate(found["best"]["run"])
    assert parsim.simulate(run).step_time_s == pytest.approx(found["best"]["step_time_s"], rel=1e-9)
    steps = [entry["step_time_s"] for entry in found["top"]]
    assert steps == sorted(steps)
    assert found["bound_s"] is None or found["bound_s"] >= steps[-1] * (1 - 1e-9) or len(steps) < 10
    for line in found["rejected"]:
        assert line["rule"] in found["removed"]
        assert line["detail"]


def test_the_room_is_called_as_the_function() -> None:
    result = parsim.search(small(2), top=1, contention=0)
    assert isinstance(result, SearchResult)


def options(**more: Any) -> dict[str, Any]:
    return document(2) | more


def test_objectives_choose_the_size_of_the_cluster() -> None:
    sizes = options(nodes=[1, 2], tokens=1e10, deadline_days=1e4)
    fast = search(search_from_document(sizes | {"objective": "step_time"}), contention=0)
    cheap = search(search_from_document(sizes | {"objective": "tokens_per_dollar"}), contention=0)
    small_one = search(search_from_document(sizes | {"objective": "gpus_for_deadline"}), contention=0)
    for result in (fast, cheap, small_one):
        assert result.best is not None
    steps = {size.nodes: size.top[0].step_s for size in fast.sizes}
    assert fast.best is not None
    assert fast.best.step_s == min(steps.values())
    assert cheap.best is not None
    assert cheap.best.step_s * cheap.best.shape.mesh.gpus == min(step * nodes * 8 for nodes, step in steps.items())
    assert small_one.best is not None
    assert small_one.best.shape.mesh.nodes == 1
    hurry = search(
        search_from_document(sizes | {"objective": "gpus_for_deadline", "deadline_days": 1e-4}), contention=0
    )
    assert hurry.best is not None
    assert hurry.best.step_s == min(steps.values())


def test_the_pareto_front_holds_nothing_that_another_beats() -> None:
    result = search(search_from_document(options(nodes=[1, 2])), contention=0)
    front = [(e.step_s, e.found.peak_bytes, e.shape.mesh.gpus) for e in result.pareto]
    assert front
    for one in front:
        assert not any(other != one and all(a <= b for a, b in zip(other, one, strict=True)) for other in front)


def test_explains_layouts_that_are_out_and_those_that_are_behind() -> None:
    values = options(reserve_bytes=80 * 2.0**30 - 0.55 * 2.0**30)
    result = search(search_from_document(values), contention=0)
    smaller = search_from_document(values | {"space": {**values["space"], "tp": 1, "pp": 1, "zero": 0}})
    out = explain(result, smaller, [("tp", "1"), ("pp", "1"), ("zero", "0")])
    assert out["feasible"] == 0
    assert "GiB too much" in out["removed"]["memory"]["because"]
    nowhere = explain(result, search_from_document(values | {"space": {**values["space"], "tp": 3}}), [("tp", "3")])
    assert nowhere["layouts"] == 0
    assert "in the space" in nowhere["answer"]


def test_the_rank_of_a_layout_counts_the_faster_ones() -> None:
    what = small(0, micro_batch_size=1, stages_per_rank={"most": 2})
    result = search(what, top=4, contention=0)
    steps = [entry.step_s for entry in result.top]
    expected = [sum(other < step * (1 - 1e-9) for other in steps) for step in steps]
    assert [faster(result, step) for step in steps] == expected


def test_more_of_the_machine_is_never_slower() -> None:
    found = sensitivity_of(search(small(2), top=1, contention=0))
    assert next(row["change"] for row in found) == "1 GiB more memory on each GPU"
    for row in found[:3]:
        assert row["gain"] >= -1e-9


def test_ranks_the_list_with_jitter() -> None:
    """Every layout once, by p95, above its time without; the same for the same seed, whoever works."""
    values = options(seed=7)
    plain = search(search_from_document(values), top=6, contention=0)
    result = search(search_from_document(values), top=6, contention=0, jitter=0.03)
    assert plain.document()["robust"] == []
    assert [entry.step_s for entry in result.top] == [entry.step_s for entry in plain.top]
    ranked = result.document()["robust"]
    assert sorted(row["rank"] for row in ranked) == list(range(1, len(result.top) + 1))
    assert [row["p95_s"] for row in ranked] == sorted(row["p95_s"] for row in ranked)
    for row in ranked:
        assert result.top[row["rank"] - 1].step_s < row["p50_s"] < row["p95_s"]
    assert stable(search(search_from_document(values), top=6, contention=0, jitter=0.03, jobs=2)) == stable(result)
    other = search(search_from_document(values | {"seed": 8}), top=6, contention=0, jitter=0.03)
    assert other.document()["robust"] != ranked
    with pytest.raises(SpecError, match="jitter 2"):
        search(search_from_document(values), jitter=2.0)


def test_quantiles_with_jitter_are_those_of_simulated_steps() -> None:
    """As many steps that `simulate` plays, with all replicas."""
    result = search(search_from_document(options(seed=1)), top=2, contention=0, jitter=0.05)
    for row in result.robust:
        run, unsaid = run_of_entry(result.scope, result.top[row.rank - 1])
        assert not unsaid
        times = parsim.simulate(run, jitter=0.05, steps=200, seed=5).step_times_s
        assert row.p50_s == pytest.approx(np.quantile(times, 0.5), rel=5e-3)
        assert row.p95_s == pytest.approx(np.quantile(times, 0.95), rel=1e-2)
