"""Copies to and from the host as a run's step sees them: against layers played one by one, at the ends of the scale,
and under every schedule."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from parsim.cost import RooflineCost
from parsim.cost.constants import FITTED
from parsim.cost.offload import host_bytes_per_s
from parsim.cost.stage import Part
from parsim.memory.host import moved_bytes
from parsim.model.layer import layer_kind
from parsim.plan import Kind, Op, Slot, straight
from parsim.schedules import get, names
from parsim.simulation import simulate
from parsim.spec import ModelSpec, Offload, Run

MakeRun = Callable[..., Run]

MODEL = ModelSpec(name="small", layers=8, hidden=4096, heads=32, kv_heads=8, ffn=14336, vocab=32000)
FAST, SLOW = 1e18, 1e9


def on(run: Run, link: float, memory: float | None = None) -> Run:
    """The run with another host link, and another host memory."""
    node = run.cluster.node
    gpu = node.gpu.model_copy(update={"host_link_bytes_per_s": link})
    changed = node.model_copy(update={"gpu": gpu, "host_memory_bytes_per_s": memory})
    return run.changed(cluster=run.cluster.model_copy(update={"node": changed}))


def without(run: Run) -> Run:
    return run.changed(layout=run.layout.model_copy(update={"offload": None}))


def step(run: Run, **how: Any) -> float:
    return simulate(run, **how).step_time_s


def test_seconds_are_bytes_over_the_link(make_run: MakeRun) -> None:
    """Row 38: 63 GB/s of PCIe 5 at the assumed 85 %; the host's memory where that is slower."""
    run = make_run(model=MODEL, offload={"activations": True})
    cost = RooflineCost(run, straight(1))
    moved = 7 * moved_bytes(run, layer_kind(MODEL, 0))  # the model's last layer stays
    for kind in (Kind.OFFLOAD, Kind.RELOAD):
        assert cost.seconds(Slot(Op(0, kind, 0))) == pytest.approx(moved / (63e9 * 0.85))
    assert host_bytes_per_s(on(run, 1e12, 320e9), FITTED) == pytest.approx(320e9 * 0.8)  # one rank has it alone
    eight = make_run(model=MODEL, mesh={"dp": 8}, offload={"activations": True})
    assert host_bytes_per_s(on(eight, 1e12, 320e9), FITTED) == pytest.approx(320e9 * 0.8 / 8)
    assert {"constants.host_link", "constants.host_memory"} <= {
        name for name, grade in cost.evidence.items() if grade == "assumed"
    }


def layer_by_layer(run: Run) -> float:
    """A stage alone, forward and back once: each layer's copy behind its forward, each backward behind its copy; the
    backward begins when all has left.
    """
    cost = RooflineCost(run, straight(1))
    assert run.layout.offload is not None
    count = run.layout.offload.layers_of([run.model.layers])[0]
    moved = min(count, run.model.layers - 1)
    copy = moved_bytes(run, layer_kind(run.model, 0)) / host_bytes_per_s(run, FITTED)
    stages, kind = cost._stages, layer_kind(run.model, 0)
    full = Part((kind,) * run.model.layers, 0, True, True)

    def lasts(part: Part, which: Kind) -> float:
        return stages.played(part, which).seconds

    def layer(which: Kind) -> float:
        return lasts(Part((kind, kind)), which) - lasts(Part((kind,)), which)

    def head(which: Kind) -> float:
        return lasts(full, which) - lasts(replace(full, last=False), which)

    forward_end = lasts(full, Kind.F)
    clock, out = forward_end - head(Kind.F) - run.model.layers * layer(Kind.F), 0.0
    for number in range(run.model.layers):
        clock += layer(Kind.F)
        if number < moved:
            out = max(out, clock) + copy
    came = max(out, forward_end)
    clock = came + lasts(Part(()), Kind.B) + head(Kind.B)
    for number in reversed(range(run.model.layers)):
        if number < moved:
            came += copy
            clock = max(clock, came)
        clock += layer(Kind.B)
    rest = lasts(full, Kind.B) - lasts(Part(()), Kind.B) - head(Kind.B) - run.model.layers * layer(Kind.B)
    return clock + rest


@pytest.mark.parametrize("link", [2e9, 8e9, 20e9, 40e9, 63e9, 200e9, 1e12])
@pytest.mark.parametrize("what", [{"activations": True}, {"activation_layers": 3}, {"modules": ["core_attn"]}])
def test_a_stage_alone_is_what_its_layers_say(make_run: MakeRun, link: float, what: dict[str, Any]) -> None:
    run = on(make_run(model=MODEL, microbatches=1, offload=what), link)
    spans = simulate(run).timeline.spans
    backward = max(span.end_s for span in spans if span.op.kind is Kind.B)
    assert backward == pytest.approx(layer_by_layer(run), rel=1e-9)


@pytest.mark.parametrize("name", names())
def test_under_every_schedule(make_run: MakeRun, name: str) -> None:
    """Nothing shows with an infinite link, and it costs nothing; the slower the link the longer the step; the engines
    agree; what shows and what hides are all of the copies' time.
    """
    pp, stages = 2, get(name).default_stages
    run = make_run(
        mesh={"pp": pp, "dp": 2},
        model=MODEL,
        microbatches=8,
        schedule=name,
        stages_per_rank=stages,
        offload={"activations": True},
    )
    bare, least = simulate(without(run)), 0.0
    for link in (FAST, 500e9, 63e9, 10e9, SLOW):
        result = simulate(on(run, link))
        assert result.step_time_s == pytest.approx(step(on(run, link), engine="events"), rel=1e-9)
        if not get(name).timed:  # those plan anew
            assert result.step_time_s >= max(bare.step_time_s, least) * (1 - 1e-12)
        least = result.step_time_s
        assert sum(result.exposed_s.values()) + result.compute_s == pytest.approx(result.step_time_s)
        for rank in result.waterfall.ranks:
            assert sum(rank.values()) == pytest.approx(result.step_time_s)
        exposed, hidden = result.exposed_s.get("offload", 0.0), result.hidden_s["offload"]
        copies = sum(span.end_s - span.start_s for span in result.timeline.spans if span.stream == "copy") / pp
        assert hidden <= copies * (1 + 1e-9)
        if link == FAST:
            assert result.step_time_s == pytest.approx(bare.step_time_s, rel=1e-9)
            assert exposed == pytest.approx(0, abs=1e-9)
        if link == SLOW:
            assert hidden < 0.1 * copies
            assert exposed > 0.3 * copies  # the rest other ranks wait for: "pipeline"
        assert result.peak_memory_bytes is not None


def test_shared_links_do_not_hasten_copies(make_run: MakeRun) -> None:
    run = on(make_run(mesh={"tp": 2, "pp": 2, "dp": 2}, model=MODEL, offload={"activations": True}), 20e9)
    assert step(run, contention=True) >= step(run) * (1 - 1e-9)
    apart = on(make_run(mesh={"pp": 2}, model=MODEL, domain=1, offload={"activations": True}), 20e9)
    assert step(apart, contention=True) == pytest.approx(step(apart), rel=1e-6)


def test_slack_hides_what_it_can(make_run: MakeRun) -> None:
    """The last rank of 1F1B plays a backward right behind its forward; the others have slots and idle time between: of
    each second of copies less shows there.
    """
    run = on(make_run(mesh={"pp": 4}, model=MODEL, microbatches=16, offload={"activations": True}), 25e9)
    timeline = simulate(run).timeline
    shown = [
        sum(span.detail.get("copy_wait_s", 0.0) for span in spans) / sum(copy.end_s - copy.start_s for copy in copies)
        for spans, copies in zip(timeline.by_rank(), timeline.by_rank("copy"), strict=True)
    ]
    assert max(shown[:3]) < 0.5 * shown[3]
    fast = simulate(on(run, 150e9))
    assert fast.exposed_s.get("offload", 0.0) < 0.1 * fast.hidden_s["offload"]


def test_fewer_layers_copy_less(make_run: MakeRun) -> None:
    run = on(make_run(mesh={"pp": 2}, model=MODEL, offload={"activations": True}), 10e9)
    steps = [
        step(run.changed(layout=run.layout.model_copy(update={"offload": Offload(activation_layers=count)})))
        if count
        else step(without(run))
        for count in (0, 1, 2, 4)
    ]
    assert steps == sorted(steps)
    assert steps[-1] <= step(run) * (1 + 1e-12)


def test_states_on_the_host_are_updated_at_its_memorys_rate(make_run: MakeRun) -> None:
    """30 bytes a parameter, as on the device, over the rank's share of the host's memory; gradients (4 bytes) and
    weights (2 bytes) pass beside it."""
    run = make_run(mesh={"dp": 8}, model=MODEL, zero=1, offload={"optimizer": True})
    cost = RooflineCost(on(run, 63e9, 400e9), straight(1))
    parameters = cost._stages.held(Part((layer_kind(MODEL, 0),) * 8, 0, True, True), False)[0] / 8
    update = 30 * parameters / (400e9 * 0.8 / 8)
    shown = cost.exposed_seconds(Slot(Op(0, Kind.STEP)))
    base = RooflineCost(without(on(run, 63e9, 400e9)), straight(1)).exposed_seconds(Slot(Op(0, Kind.STEP)))
    assert update < shown["optimizer"] < update + base["optimizer"]
    assert "offload" not in shown
    narrow = RooflineCost(on(run, 2e9, 400e9), straight(1)).exposed_seconds(Slot(Op(0, Kind.STEP)))
    assert narrow["optimizer"] == pytest.approx(shown["optimizer"])
    assert narrow["offload"] == pytest.approx(4 * parameters / (2e9 * 0.85) - update)


def test_weights_on_the_host_are_hidden_by_layers_that_last_longer(make_run: MakeRun) -> None:
    run = make_run(mesh={"pp": 2}, model=MODEL, offload={"weights": True})
    bare = step(without(run))
    assert step(on(run, FAST)) == pytest.approx(bare, rel=1e-7)
    assert bare < step(on(run, 40e9)) < step(on(run, 10e9))
    cost = RooflineCost(on(run, 1e9), straight(2))
    one = MODEL.hidden * (MODEL.hidden + 2 * 1024 + MODEL.hidden + 3 * MODEL.ffn)
    fetch = 4 * 2 * one / (1e9 * 0.85)
    assert cost.seconds(Slot(Op(0, Kind.F, 0))) == pytest.approx(fetch, rel=0.02)
    assert cost.seconds(Slot(Op(0, Kind.B, 0))) == pytest.approx(fetch, rel=0.02)
    sharded = make_run(mesh={"dp": 8}, model=MODEL, zero=3, fsdp=True, offload={"weights": True})
    assert step(on(sharded, 2e9)) < step(on(make_run(mesh={"dp": 8}, model=MODEL, offload={"weights": True}), 2e9))


def test_weights_and_activations_share_the_way_in(make_run: MakeRun) -> None:
    run = make_run(mesh={"pp": 2}, model=MODEL, offload={"weights": True, "activations": True})
    cost = RooflineCost(on(run, 20e9), straight(2))
    out, back = (cost.seconds(Slot(Op(0, kind, 0))) for kind in (Kind.OFFLOAD, Kind.RELOAD))
    one = MODEL.hidden * (MODEL.hidden + 2 * 1024 + MODEL.hidden + 3 * MODEL.ffn)
    assert back - out == pytest.approx(4 * 2 * one / (20e9 * 0.85), rel=0.02)
    result = simulate(on(run, 20e9))
    assert sum(result.exposed_s.values()) + result.compute_s == pytest.approx(result.step_time_s)
    assert result.step_time_s == pytest.approx(step(on(run, 20e9), engine="events"), rel=1e-9)
