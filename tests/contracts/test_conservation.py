"""Conservation: however a run is cut, its ranks together do the model's work, send what the closed forms say, and hold
the model's weights. Counted on the segments that the cost model plays and on what the ledger keeps, for random layouts.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from parsim.cost import RooflineCost
from parsim.cost.segments import Collective, Kernel, Segment
from parsim.errors import ParsimError
from parsim.memory import memory_of
from parsim.model.flops import attention_flops, matmul_flops, part_flops
from parsim.model.layer import LayerKind, layer_work
from parsim.model.weights import model_weights, parameters_of_rank
from parsim.network.price import ring_bytes
from parsim.plan import COMPUTE, Kind, Op, Plan, Slot
from parsim.run_plan import plan_of
from parsim.schedules import names
from parsim.spec import Run, run_from_document

DENSE = {"name": "dense", "layers": 16, "hidden": 1024, "heads": 16, "kv_heads": 8, "ffn": 2816, "vocab": 4096}
PLAIN = {**DENSE, "name": "plain", "kv_heads": 16, "gated_mlp": False, "norm": "layer"}
EXPERTS = {**DENSE, "name": "experts"} | {
    "moe": {"experts": 16, "topk": 2, "expert_ffn": 512, "shared_ffn": 1024, "dense_layers": 1}
}
LATENT = {**EXPERTS, "name": "latent", "kv_heads": 16, "mtp_layers": 1} | {
    "mla": {"kv_rank": 256, "q_rank": 384, "nope_dim": 64, "rope_dim": 32, "value_dim": 64}
}
MODULES: dict[str, tuple[str, ...]] = {"core_attn": ("attention",), "mlp": ("fc1", "fc2")}
RECOMPUTE = ("none", "full", *({"mode": "selective", "modules": [name]} for name in MODULES))
TIMED = ("zb-auto",)  # plans by times: its orders are the cost model's own business


def run_of(
    model: dict[str, Any], mesh: dict[str, int], microbatches: int, size: int, software: Any, **layout: Any
) -> Run:
    """A run on DGX H100. Assumes that hypothesis drew one that can be."""
    ranks = mesh["tp"] * mesh["cp"] * mesh["dp"] * mesh["pp"]
    document = {
        "model": model,
        "cluster": {"name": "dgx-h100", "nodes": -(-ranks // 8)},
        "layout": {"mesh": mesh, "split": "balanced", "micro_batch_size": size, **layout},
        "batch": {"sequence_length": 1024, "global_batch_size": microbatches * size * mesh["dp"]},
        "software": {"vocab_pad_multiple": None, **software},
    }
    try:
        return run_from_document(document)
    except ParsimError:
        assume(False)
        raise


def degrees(most: int) -> st.SearchStrategy[int]:
    return st.sampled_from([1 << n for n in range(most.bit_length())])


meshes = st.fixed_dictionaries({"tp": degrees(8), "cp": degrees(2), "dp": degrees(4), "pp": degrees(4)})
kernels = st.sampled_from(["unfused", "cudnn", "flash2"])
schedules = st.sampled_from([name for name in names() if name not in TIMED])
few = settings(max_examples=40, deadline=None)


def segments(run: Run, plan: Plan) -> Iterator[tuple[int, Op, int, Segment]]:
    """(pipeline rank, op, how often, segment) of a step: everything that a rank of it plays."""
    cost = RooflineCost(run, plan.placement)
    for rank, order in enumerate(plan.orders):
        counted = Counter((op.stage, op.kind) for slot in order for op in slot.ops if op.kind in COMPUTE)
        for (stage, kind), times in counted.items():
            op = Op(stage, kind, 0)
            for block in cost.segments(Slot(op))[0]:
                for segment in block:
                    yield rank, op, times, segment


def planned(run: Run) -> Plan:
    try:
        return plan_of(run)
    except ParsimError:
        assume(False)
        raise


def flops_of(run: Run) -> dict[str, float]:
    """FLOP of a step by cause, over all ranks; attention's forward apart from its backward."""
    width = run.ranks // run.layout.mesh.pp
    found: dict[str, float] = Counter()
    for _, op, times, segment in segments(run, planned(run)):
        if isinstance(segment, Kernel):
            cause = f"attention {op.kind}" if segment.cause == "attention" else str(segment.cause)
            found[cause] += width * times * segment.flops
    return found


@few
@given(meshes, st.booleans(), st.sampled_from([DENSE, PLAIN]), kernels, schedules, st.integers(1, 3), st.integers(1, 2))
def test_ranks_together_do_the_models_work(
    mesh: dict[str, int], cut: bool, model: dict[str, Any], kernel: str, schedule: str, rounds: int, size: int
) -> None:
    run = run_of(
        model, mesh, 2 * rounds * mesh["pp"], size, {"attention": kernel}, sequence_parallel=cut, schedule=schedule
    )
    shape = run.model, run.batch.sequence_length, run.batch.global_batch_size
    found = flops_of(run)
    assert found["matmul"] == pytest.approx(matmul_flops(*shape), rel=1e-9)
    backward = found.get("attention B", 0) + found.get("attention I", 0)
    forward = attention_flops(*shape, causal=kernel != "unfused") / 3
    assert found["attention F"] == pytest.approx(forward, rel=1e-9)
    assert backward / forward == pytest.approx(2.0 if kernel == "unfused" else 2.5)  # flash: the scores once more
    assert found.get("recompute", 0) == 0


@few
@given(meshes, st.sampled_from([EXPERTS, LATENT]), degrees(16), degrees(2), st.integers(1, 3), st.booleans())
def test_experts_together_do_the_models_work(
    mesh: dict[str, int], model: dict[str, Any], ep: int, expert_tp: int, rounds: int, exchanged: bool
) -> None:
    """Routed tokens are computed once for each of their experts; routers and latents once, where tokens are cut."""
    layout = {"ep": ep, "expert_tp": expert_tp, "sequence_parallel": True, "cp_comm": "a2a" if exchanged else "ring"}
    run = run_of(model, mesh, rounds * mesh["pp"], 1, {"attention": "unfused"}, **layout)
    shape = run.model, run.batch.sequence_length, run.batch.global_batch_size
    found = flops_of(run)
    assert found["matmul"] == pytest.approx(matmul_flops(*shape), rel=1e-9)
    assert sum(value for name, value in found.items() if name.startswith("attention")) == pytest.approx(
        attention_flops(*shape), rel=1e-9
    )


@few
@given(meshes, st.sampled_from(RECOMPUTE[1:]), kernels, st.integers(1, 3))
def test_recomputation_adds_a_forward_of_what_is_recomputed(
    mesh: dict[str, int], recompute: Any, kernel: str, rounds: int
) -> None:
    """Of all layers, or of the kernels that the named modules are made of. Nothing else changes."""
    made = [
        run_of(
            PLAIN, mesh, rounds * mesh["pp"], 1, {"attention": kernel}, sequence_parallel=mesh["tp"] > 1, recompute=how
        )
        for how in (recompute, "none")
    ]
    again, plain = (flops_of(run) for run in made)
    names_of = MODULES[recompute["modules"][0]] if isinstance(recompute, dict) else None
    width = made[0].ranks // mesh["pp"]
    forward = sum(
        width * times * segment.flops
        for _, op, times, segment in segments(made[1], planned(made[1]))
        if isinstance(segment, Kernel) and op.kind is Kind.F
        and (segment.name in names_of if names_of else segment.name != "head")
    )  # fmt: skip
    assert forward > 0
    assert again.pop("recompute") == pytest.approx(forward, rel=1e-9)
    assert again == pytest.approx({name: value for name, value in plain.items() if name != "recompute"})


def sent(run: Run, axis: str) -> list[float]:
    """Bytes that a rank of each pipeline rank sends on an axis in one step, inside ops."""
    found = [0.0] * run.layout.mesh.pp
    for rank, _, times, segment in segments(run, planned(run)):
        if isinstance(segment, Collective) and segment.axis == axis:
            found[rank] += times * ring_bytes(segment.kind, segment.size_bytes, segment.group)
    return found


@few
@given(meshes, st.booleans(), st.sampled_from([DENSE, PLAIN]), st.integers(1, 3), st.integers(1, 2))
def test_bytes_of_tensor_parallelism(
    mesh: dict[str, int], cut: bool, model: dict[str, Any], rounds: int, size: int
) -> None:
    """u = 2 T h (t-1)/t bytes. A layer 4u forward and 4u back, 6u with sequence parallelism (two more gathers); the
    embedding's sum 2u, and what goes into the head 2u back: with sequence parallelism 2u and 3u.
    """
    run = run_of(model, mesh, rounds * mesh["pp"], size, {}, sequence_parallel=cut)
    pp, tp = mesh["pp"], mesh["tp"]
    unit = 2 * (1024 // mesh["cp"]) * size * run.model.hidden * (tp - 1) / tp
    layers = run.layers_of_parts(pp)
    expected = [(10 if cut else 8) * count for count in layers]
    expected[0] += 2
    expected[-1] += 3 if cut else 2
    assert sent(run, "tp") == pytest.approx([run.microbatches * unit * count for count in expected])


@few
@given(meshes, st.sampled_from(["ring", "allgather", "a2a"]), st.booleans(), st.integers(1, 3))
def test_bytes_of_context_parallelism(mesh: dict[str, int], how: str, sequence: bool, rounds: int) -> None:
    """Ring and gather: 2 T (keys and values) (c-1), twice that back; exchange: 2 T (2q + kv)(c-1)/c each way."""
    run = run_of(DENSE, mesh, rounds * mesh["pp"], 1, {}, cp_comm=how, sequence_parallel=sequence)
    cp, model = mesh["cp"], run.model
    tokens = 1024 / cp
    query = model.heads * model.head_dim / mesh["tp"]
    both = 2 * max(model.kv_heads / mesh["tp"], 1) * model.head_dim
    once = 2 * tokens * both * (cp - 1) * 3
    if how == "a2a":
        once = 2 * tokens * (2 * query + both) * (cp - 1) / cp * 2
    assert sent(run, "cp") == pytest.approx([run.microbatches * once * n for n in run.layers_of_parts(mesh["pp"])])


@few
@given(meshes, degrees(16), degrees(2), st.sampled_from([EXPERTS, LATENT]), st.integers(1, 2))
def test_bytes_of_expert_parallelism(
    mesh: dict[str, int], ep: int, expert_tp: int, model: dict[str, Any], rounds: int
) -> None:
    """Four exchanges a layer and micro-batch: each sends topk copies of the rank's tokens, less those that stay."""
    run = run_of(model, mesh, rounds * mesh["pp"], 1, {}, ep=ep, expert_tp=expert_tp, sequence_parallel=True)
    assert run.model.moe is not None
    payload = 2 * 1024 / (mesh["tp"] * mesh["cp"]) * run.model.hidden
    once = 4 * payload * run.model.moe.topk * (ep - 1) / ep
    layers = [count - (part == 0) for part, count in enumerate(run.layers_of_parts(mesh["pp"]))]  # the first is dense
    layers[-1] += run.model.mtp_layers
    assert sent(run, "ep") == pytest.approx([run.microbatches * once * count for count in layers])


@few
@given(meshes, st.booleans(), st.integers(1, 3))
def test_bytes_of_cut_parameters(mesh: dict[str, int], reshard: bool, rounds: int) -> None:
    """FSDP without a pipeline: two gathers of 2 bytes and a scatter of 4 of every layer's share of tp, over dp * cp
    ranks, in each micro-batch. What stands in line beside them is there for its time: the first layer's once more.
    """
    mesh = {**mesh, "pp": 1}
    software = {"gradient_dtype": "fp32"}
    run = run_of(PLAIN, mesh, rounds, 1, software, fsdp=True, zero=3, reshard_after_forward=reshard)
    ranks = mesh["dp"] * mesh["cp"]
    assume(ranks > 1)
    held = sum(weight.size_of_rank(mesh["tp"]) for weight in model_weights(run.model) if weight.cut is not None)
    layers = held - 2 * run.model.vocab * run.model.hidden / mesh["tp"]
    beside = sum(
        times * ring_bytes(segment.kind, segment.size_bytes, segment.group)
        for _, _, times, segment in segments(run, planned(run))
        if isinstance(segment, Collective) and segment.axis == "dp" and segment.overlaps
    )
    volumes = 2 + 2 + 4 if reshard else 2 + 4
    assert beside == pytest.approx(rounds * volumes * layers * (ranks - 1) / ranks)


@few
@given(meshes, st.sampled_from([DENSE, PLAIN]), schedules, st.booleans())
def test_parts_hold_the_models_parameters(
    mesh: dict[str, int], model: dict[str, Any], schedule: str, tied: bool
) -> None:
    """Once over all pipeline ranks, twice in DualPipe; a tied table once more where both ends have their own."""
    mesh = {**mesh, "cp": 1}
    run = run_of({**model, "tied_embeddings": tied}, mesh, 2 * mesh["pp"], 1, {}, schedule=schedule)
    plan = planned(run)
    held = sum(rank.persistent["parameters"] / run.software.parameter_bytes for rank in memory_of(run, plan))
    copies = len(plan.placement.twins(0))
    weights, _ = parameters_of_rank(model_weights(run.model), tp=mesh["tp"])
    ends = {plan.placement.rank_of[stage] for stage in plan.placement.twins(0)}
    last = {plan.placement.rank_of[s] for s in plan.placement.twins(plan.placement.chains[0][-1])}
    table = run.model.vocab * run.model.hidden / mesh["tp"] if tied and ends != last else 0.0
    assert held == pytest.approx(copies * weights + len(last - ends) * table)


@few
@given(meshes, degrees(16), degrees(2), st.sampled_from([EXPERTS, LATENT]), schedules)
def test_parts_hold_all_experts(
    mesh: dict[str, int], ep: int, expert_tp: int, model: dict[str, Any], schedule: str
) -> None:
    """A rank's share of them and of all else; an extra prediction has an embedding of its own where none is at hand."""
    layout = {"ep": ep, "expert_tp": expert_tp, "sequence_parallel": True, "schedule": schedule}
    run = run_of(model, mesh, 2 * mesh["pp"], 1, {}, **layout)
    plan = planned(run)
    held = sum(rank.persistent["parameters"] / run.software.parameter_bytes for rank in memory_of(run, plan))
    weights = sum(parameters_of_rank(model_weights(run.model, mtp=True), mesh["tp"], ep, expert_tp))
    first, last = plan.placement.twins(0), plan.placement.twins(plan.placement.chains[0][-1])
    ranks = [{plan.placement.rank_of[stage] for stage in stages} for stages in (first, last)]
    copies = len(ranks[1] - ranks[0]) if run.model.mtp_layers else 0
    table = run.model.vocab * run.model.hidden / mesh["tp"]
    assert held == pytest.approx(len(first) * weights + copies * table)


@few
@given(meshes, degrees(16), st.sampled_from([DENSE, EXPERTS]), st.integers(1, 2))
def test_what_is_held_is_what_is_multiplied(mesh: dict[str, int], ep: int, model: dict[str, Any], size: int) -> None:
    """A weight gradient takes two FLOP a token and parameter: what the cost model multiplies on a pipeline rank is what
    the ledger keeps there, but for embedding and norms, which no matmul has.
    """
    ep = ep if "moe" in model else 1
    run = run_of(model, mesh, 2 * mesh["pp"], size, {}, ep=ep, sequence_parallel=mesh["tp"] > 1, schedule="zb-h1")
    plan, tokens = planned(run), size * 1024 / mesh["cp"]
    multiplied = [0.0] * mesh["pp"]
    for rank, op, times, segment in segments(run, plan):
        if op.kind is Kind.W and isinstance(segment, Kernel) and segment.cause == "matmul":
            rows = tokens / (mesh["tp"] if segment.name.startswith("router") else 1)
            if segment.name.startswith("expert_") and run.model.moe is not None:
                local = run.model.moe.experts / ep
                rows = tokens * run.model.moe.topk / mesh["tp"] / local
            multiplied[rank] += segment.flops / 2 / rows * (times / run.microbatches)
    held = [rank.persistent["parameters"] / run.software.parameter_bytes for rank in memory_of(run, plan)]
    layers = run.layers_of_parts(mesh["pp"])
    unmultiplied = [2 * count * run.model.hidden for count in layers]
    unmultiplied[0] += run.model.vocab * run.model.hidden / mesh["tp"]
    unmultiplied[-1] += run.model.hidden
    assert [h - u for h, u in zip(held, unmultiplied, strict=True)] == pytest.approx(multiplied, rel=1e-9)


@given(st.integers(1, 16), st.sampled_from([DENSE, PLAIN, EXPERTS, LATENT]), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_parts_add_up_to_the_model(parts: int, model: dict[str, Any], batch: int) -> None:
    """FLOP of any slices of the layers."""
    mesh = {"tp": 1, "cp": 1, "dp": 1, "pp": 1}
    run = run_of(model, mesh, batch, 1, {})
    borders = [round(run.model.layers * part / parts) for part in range(parts + 1)]
    slices = [
        part_flops(run.model, range(borders[part], borders[part + 1]), part == parts - 1, 1024, batch)
        for part in range(parts)
    ]
    assert sum(each.matmul for each in slices) == pytest.approx(matmul_flops(run.model, 1024, batch), rel=1e-12)
    assert sum(each.attention for each in slices) == pytest.approx(attention_flops(run.model, 1024, batch), rel=1e-12)


def test_names_of_modules_are_names_of_kernels() -> None:
    """What the recomputation test counts as a module exists: a renamed kernel must not make it pass for nothing."""
    run = run_of(PLAIN, {"tp": 1, "cp": 1, "dp": 1, "pp": 1}, 1, 1, {})
    work = {item.name for item in layer_work(run.model, LayerKind())}
    assert {name for module in MODULES.values() for name in module} <= work
