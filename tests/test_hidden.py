"""Hidden communication of a step: what shows and what is hidden are all of it, on every axis."""

from typing import Any

import pytest

from parsim.cost import RooflineCost
from parsim.cost.segments import Collective
from parsim.run_plan import plan_of
from parsim.simulation import simulate
from parsim.spec import Run, run_from_document

MODEL = {"name": "m", "layers": 16, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn": 14336, "vocab": 32000}
EXPERTS = {**MODEL, "moe": {"experts": 16, "topk": 2, "expert_ffn": 2048}}


def run_of(mesh: dict[str, int], model: Any = MODEL, software: Any = None, m: int = 8, **layout: Any) -> Run:
    ranks = mesh.get("tp", 1) * mesh.get("cp", 1) * mesh.get("dp", 1) * mesh.get("pp", 1)
    return run_from_document(
        {
            "model": model,
            "cluster": {"name": "dgx-h100", "nodes": -(-ranks // 8)},
            "layout": {"mesh": mesh, **layout},
            "batch": {"sequence_length": 4096, "global_batch_size": m * mesh.get("dp", 1)},
            "software": software or {},
        }
    )


def collectives(run: Run, axis: str) -> float:
    """Seconds at full speed of an axis's collectives in a step, the mean over pipeline ranks."""
    plan = plan_of(run)
    cost = RooflineCost(run, plan.placement)
    slots = [slot for order in plan.orders for slot in order if slot.first.mb is not None]
    found = (s for slot in slots for blocks in cost.segments(slot) for block in blocks for s in block)
    whole = sum(s.seconds for s in found if isinstance(s, Collective) and s.axis == axis)
    return whole / plan.placement.ranks * cost.straggler


@pytest.mark.parametrize(
    ("axis", "run"),
    [
        ("tp", run_of({"tp": 8, "pp": 2}, software={"tp_overlap": "te_userbuffers"}, sequence_parallel=True)),
        ("cp", run_of({"cp": 4, "pp": 2})),
        ("ep", run_of({"dp": 16}, EXPERTS, {"ep_overlap": True}, ep=8)),
        ("dp", run_of({"dp": 16}, fsdp=True)),
    ],
)
def test_what_shows_and_what_is_hidden_are_all_of_it(axis: str, run: Run) -> None:
    """Contention shows on top: at most as much again as the collective's own share of it."""
    result = simulate(run)
    hidden, shown, whole = result.hidden_s[axis], result.exposed_s[axis], collectives(run, axis)
    assert 0.3 * whole < hidden <= whole * (1 + 1e-9)

    assert hidden + shown >= whole * (1 - 1e-9)
    assert hidden + shown <= 1.7 * whole


def test_overlap_moves_time_from_what_shows_to_what_is_hidden() -> None:
    off, on = (simulate(run_of({"dp": 16}, software={"dp_overlap": flag}, m=2)) for flag in (False, True))
    assert off.hidden_s["dp"] == 0.0
    assert on.hidden_s["dp"] > 0.5 * off.exposed_s["dp"]
    assert on.exposed_s["dp"] < off.exposed_s["dp"]
    assert on.hidden_s["dp"] + on.exposed_s["dp"] == pytest.approx(off.exposed_s["dp"], rel=0.15)  # and contention


def test_messages_hide_where_the_receiver_computes() -> None:
    """A pipeline's messages are under way 2 (p - 1) m times; a longer pipeline waits for more of them."""
    result = simulate(run_of({"pp": 4}, m=16))
    plan = result.plan
    hop = RooflineCost(result.run, plan.placement).hop_seconds(0, 1)
    whole = 2 * 3 * 16 * hop / 4
    assert 0.3 * whole < result.hidden_s["pp"] < whole
    alone = simulate(run_of({"pp": 4}, m=1))
    assert alone.hidden_s["pp"] == pytest.approx(0.0, abs=1e-12)  # one micro-batch: everyone waits for each message
    assert simulate(run_of({"dp": 8})).hidden_s["pp"] == 0.0


def test_the_document_says_what_it_is() -> None:
    document = simulate(run_of({"pp": 4})).document()
    assert document["hidden_s"].keys() >= {"tp", "cp", "ep", "dp", "pp"}
    assert "beside compute" in document["definitions"]["hidden_s"]


def test_copies_show_hide_or_are_beside_idle_time() -> None:
    run = run_of({"pp": 4}, offload={"activations": True})
    document = simulate(run).document()
    copies, shown = document["copies_s"], document["exposed_s"].get("offload", 0.0)
    assert 0 < document["hidden_s"]["offload"] <= copies
    assert shown < copies
    assert "idle time" in document["definitions"]["copies_s"]
    assert "copies_s" not in simulate(run_of({"pp": 4})).document()
