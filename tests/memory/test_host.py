"""What is on the host is nowhere else, and what leaves the device comes back: layer by layer, under every schedule."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.errors import ScheduleError
from parsim.memory import memory_of
from parsim.memory.host import moved_bytes, moved_layers
from parsim.memory.ledger import Block, Entry, Unit
from parsim.memory.parts import Parts
from parsim.memory.profile import profiles_of
from parsim.memory.run_memory import holdings_of
from parsim.memory.stage import scan
from parsim.memory.summary import MemorySummary
from parsim.model.layer import layer_kind
from parsim.plan import COMPUTE, Kind
from parsim.run_plan import plan_of
from parsim.schedules import names
from parsim.simulation import simulate
from parsim.spec import Offload, Run
from tests.memory.runs import LLAMA_70B, TINY, make

EXPERTS: dict[str, Any] = {**TINY, "moe": {"experts": 8, "topk": 2, "expert_ffn": 64, "dense_layers": 1}}


def without(run: Run) -> Run:
    return run.changed(layout=run.layout.model_copy(update={"offload": None}))


def offloading(run: Run, **what: Any) -> Run:
    return run.changed(layout=run.layout.model_copy(update={"offload": Offload(**what)}))


units = st.builds(
    Unit,
    st.lists(
        st.builds(
            lambda saved, part, up, down: Entry("op", saved=saved, moved=saved * part, forward=up, backward=down),
            st.integers(0, 9),
            st.sampled_from([0, 1]),
            st.integers(0, 9),
            st.integers(0, 9),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
)


@given(st.lists(st.builds(Block, st.lists(units, min_size=1, max_size=2).map(tuple), st.integers(1, 4)), max_size=4))
def test_a_layer_has_left_when_the_second_behind_it_runs(blocks: list[Block]) -> None:
    """Played layer by layer: on the device are what stays, the running layer, and the one before it (or after)."""
    layers = [block.units for block in blocks for _ in range(block.count)]
    moved = [sum(unit.moved for unit in layer) for layer in layers]
    stays, highest = 0.0, 0.0
    for number, layer in enumerate(layers):
        live = stays + (moved[number - 1] if number else 0)
        for entry in (entry for unit in layer for entry in unit.entries):
            live += entry.saved
            highest = max(highest, live + entry.forward)
        stays += sum(unit.saved for unit in layer)
    back = 0.0
    for number, layer in reversed(list(enumerate(layers))):
        live = sum(unit.saved for each in layers[: number + 1] for unit in each) + moved[number]
        live += moved[number - 1] if number else 0
        for entry in reversed([entry for unit in layer for entry in unit.entries]):
            back = max(back, live + entry.backward)
            live -= entry.saved
    found = scan(blocks)
    assert (found.saved, found.moved) == (stays, sum(moved))
    assert found.forward.size == highest
    assert found.backward.size == back
    assert sum(found.saved_by_op.values()) == pytest.approx(found.saved)


@pytest.mark.parametrize(
    "what", [{"activations": True}, {"activation_layers": 3}, {"modules": ("core_attn", "attn_norm")}]
)
@pytest.mark.parametrize("model", [TINY, EXPERTS], ids=["dense", "experts"])
def test_every_byte_is_on_the_device_or_on_the_host(model: dict[str, Any], what: dict[str, Any]) -> None:
    run = make(model, {"pp": 4}, layout={"schedule": "interleaved"})
    run = run.changed(layout=run.layout.model_copy(update={"stages_per_rank": 2}))
    plan = plan_of(run)
    bare, moved = holdings_of(run, plan.placement), holdings_of(offloading(run, **what), plan.placement)
    for one, other in zip(bare, moved, strict=True):
        for stage, own in one.stages.items():
            assert other.stages[stage].saved + other.stages[stage].moved == pytest.approx(own.saved, rel=1e-12)
            assert other.stages[stage].kept == own.kept
    assert sum(stage.moved for holding in moved for stage in holding.stages.values()) > 0


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("what", [{"activations": True}, {"activation_layers": 2}])
def test_the_peak_falls_by_what_waits_on_the_host(name: str, what: dict[str, Any]) -> None:
    """In every schedule and slot: by the micro-batches that wait while others run, but for a layer that leaves or comes
    inside each op; and the closed form of a schedule's peak knows it.
    """
    try:
        run = make(TINY, {"pp": 4}, m=8, layout={"schedule": name})
        plan = plan_of(run)
    except ScheduleError:
        pytest.skip("not at this size")
    moved = offloading(run, **what)
    layer = moved_bytes(moved, layer_kind(run.model, 0))
    for bare, memory, profile in zip(
        memory_of(run, plan), memory_of(moved, plan_of(moved)), profiles_of(plan_of(moved)), strict=True
    ):
        assert profile.peak_bytes(memory.holding) == pytest.approx(memory.peak_bytes, rel=1e-12)
        stages, waiting = memory.holding.stages, dict[tuple[int, int | None], float]()
        for one, other in zip(bare.moments, memory.moments, strict=True):
            own = {(op.stage, op.mb): stages[op.stage].moved for op in other.slot.ops if op.kind in COMPUTE}
            others = sum(size for key, size in waiting.items() if key not in own)
            assert one.size - others - sum(own.values()) - 1 <= other.size
            assert other.size <= one.size - others + len(other.slot.ops) * layer + 1
            for op in other.slot.ops:
                if op.kind is Kind.F:
                    waiting[op.stage, op.mb] = stages[op.stage].moved
                elif op.kind in (Kind.B, Kind.I):
                    del waiting[op.stage, op.mb]
        assert not waiting


def test_one_f_one_b_in_closed_form() -> None:
    """Rank 0 of 4 has four micro-batches at once: three wait on the host while the fourth runs."""
    run = make(TINY, {"pp": 4}, m=8)
    moved = offloading(run, activations=True)
    bare, memory = memory_of(run, plan_of(run))[0], memory_of(moved, plan_of(moved))[0]
    own, other = bare.holding.stages[0], memory.holding.stages[0]
    four = 3 * own.saved + max(own.forward.size, own.backward.size)
    # B of the first micro-batch, when four forwards have been played: its own reach holds what stays of it
    less = 3 * other.saved + max(other.forward.size, other.backward.size)
    persistent = sum(bare.persistent.values())
    assert bare.peak_bytes == pytest.approx(persistent + four)
    assert memory.peak_bytes == pytest.approx(persistent + 2 * other.window + less)
    assert memory.host["activations"] == pytest.approx(4 * other.moved)


def test_a_rank_alone_keeps_the_other_layers() -> None:
    """40 of 80 layers on the host, as NVIDIA's Llama 3 70B recipe on GB200: the saved bytes of half the layers."""
    run = make({**LLAMA_70B, "layers": 80}, {"dp": 8}, m=1, sequence=8192)
    moved = offloading(run, activation_layers=40)
    bare, memory = memory_of(run, plan_of(run))[0], memory_of(moved, plan_of(moved))[0]
    layer = moved_bytes(moved, layer_kind(run.model, 0))
    assert bare.peak_bytes - memory.peak_bytes == pytest.approx(40 * layer, rel=1e-9)
    assert memory.host == {"activations": pytest.approx(40 * layer)}


def test_the_last_layer_of_the_model_stays() -> None:
    run = offloading(make(TINY, {"pp": 4}), activations=True)
    assert moved_layers(run, (4, 4, 4, 4), (0,)) == (4,)
    assert moved_layers(run, (4, 4, 4, 4), (3,)) == (3,)
    assert moved_layers(run, (8, 8, 0), (2,)) == (0,)


@pytest.mark.parametrize("framework", ["megatron-core", "pytorch-cpu"])
def test_what_is_copied_is_what_lies_on_the_host(framework: str) -> None:
    """Layer by layer, with the masks of sliding windows where a framework keeps them."""
    windowed = {**TINY, "sliding_window": 1024, "sliding_window_every": 2}
    run = offloading(make(windowed, {}, software={"framework": framework, "loss": "torch"}), activations=True)
    parts, moved = Parts(run, (run.model.layers,)), 10
    copied = [moved_bytes(run, kind) for kind in parts.kinds(0)[:moved]]
    assert len(set(copied)) == (2 if framework == "pytorch-cpu" else 1)
    assert parts.activations(0, 0, moved).moved == pytest.approx(sum(copied), rel=1e-12)


def test_modules_move_what_they_read() -> None:
    """GPT's and Megatron's letters, in units of 2 s b h: input of a norm 1, q, k and v 3, the core's output 1."""
    run = make(TINY, {"dp": 8}, m=8)
    unit = 2 * 4096 * 256
    sizes = {
        module: moved_bytes(offloading(run, modules=(module,)), layer_kind(run.model, 0))
        for module in ("attn_norm", "qkv_linear", "core_attn", "mlp_norm")
    }
    assert sizes == {"attn_norm": unit, "qkv_linear": unit, "core_attn": 3 * unit, "mlp_norm": unit}
    both = moved_bytes(offloading(run, modules=("core_attn", "attn_proj")), layer_kind(run.model, 0))
    assert both == 4 * unit
    routed = make(EXPERTS, {"dp": 8}, m=8)
    kind = layer_kind(routed.model, 1)
    inputs = moved_bytes(offloading(routed, modules=("expert_fc1",)), kind)
    assert inputs == 2 * unit  # two experts a token
    assert moved_bytes(offloading(routed, modules=("moe_act",)), kind) == 2 * 2 * (2 * 4096) * 64  # gate and up
    assert moved_bytes(offloading(routed, modules=("moe_act",)), layer_kind(routed.model, 0)) == 0


def test_states_and_weights_live_on_the_host() -> None:
    run = make(TINY, {"pp": 2, "dp": 4})
    states, weights = offloading(run, optimizer=True), offloading(run, weights=True)
    for bare, one, other in zip(*(memory_of(each, plan_of(each)) for each in (run, states, weights)), strict=True):
        assert one.host == {"optimizer states": bare.persistent["optimizer"]}
        assert one.persistent["optimizer"] == 0
        assert one.persistent["parameters"] == bare.persistent["parameters"]
        eight = other.host["weights of layers"]
        assert other.persistent["parameters"] == pytest.approx(bare.persistent["parameters"] - eight * 6 / 8)
        assert other.peak_bytes == pytest.approx(bare.peak_bytes - eight * 6 / 8)


def test_a_node_whose_memory_is_too_small_is_named() -> None:
    run = offloading(make(TINY, {"pp": 2, "dp": 4}), activations=True, optimizer=True)
    result = simulate(run)
    summary = result.memory_summary
    assert summary is not None
    most = max(sum(memory.host.values()) for memory in result.memory)
    assert summary.host == 8 * most == summary.document()["host_memory_bytes_per_node"]
    assert result.warnings == ()
    small = replace(summary, host_capacity=8 * most - 1)
    assert [line for line in small.warnings if line.startswith("does not fit on the host: the 8 ranks")]
    unknown = replace(summary, host_capacity=None)
    assert [line for line in unknown.warnings if "cluster.node.host_memory_bytes would say" in line]
    assert MemorySummary(simulate(without(run)).memory, summary.capacity).warnings == ()


def test_a_recomputed_part_moves_its_input() -> None:
    recompute = {"mode": "selective", "modules": ("mlp",)}
    run = make(TINY, {"dp": 8}, m=8, layout={"recompute": recompute, "offload": {"activations": True}})
    holding = holdings_of(run, plan_of(run).placement)[0]
    bare = holdings_of(without(run), plan_of(run).placement)[0]
    assert holding.stages[0].saved + holding.stages[0].moved == pytest.approx(bare.stages[0].saved)
    assert [
        op
        for _, order in enumerate(plan_of(run).orders)
        for slot in order
        for op in slot.ops
        if op.kind is Kind.OFFLOAD
    ]
