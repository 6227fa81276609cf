"""Memory of whole runs: published peaks, closed forms of papers, and what must hold for every schedule."""

from typing import Any

import pytest

from parsim.memory import memory_of, memory_samples
from parsim.metrics import activation_peaks
from parsim.plan import COMPUTE, Kind
from parsim.schedules import build, names
from parsim.simulation import simulate
from parsim.spec import Run, run_from_document
from tests.memory.runs import TINY, make

GIB = 2**30


def peaks(run: Run, m: int, schedule: str = "1f1b", **options: int) -> list[float]:
    plan = build(schedule, run.layout.mesh.pp, m, **options)
    return [rank.peak_bytes for rank in memory_of(run, plan)]


@pytest.mark.parametrize(("schedule", "measured_gb"), [("1f1b", 39), ("interleaved", 48), ("zb-h1", 42)])
def test_published_peaks_of_the_zero_bubble_authors(schedule: str, measured_gb: float) -> None:
    """Decimal GB of the worst rank, 2401.10241: GPT of 6.2 B, fp16, unfused attention, dropout, 3 sequences of 1,024
    tokens, 8 ranks; the first and last stage hold one layer fewer."""
    chunks = 4 if schedule == "interleaved" else 1
    gpt = {**TINY, "layers": 30, "hidden": 4096, "heads": 32, "kv_heads": 32, "head_dim": 128, "ffn": 16384}
    gpt |= {"vocab": 51200, "gated_mlp": False, "norm": "layer", "positions": "learned", "max_positions": 1024}
    split = [0, *[1] * 30, 0] if chunks > 1 else [3, *[4] * 6, 3]
    layout = {"zero": 0, "micro_batch_size": 3, "precision": "fp16", "schedule": schedule, "split": split}
    run = run_from_document(
        {
            "model": gpt,
            "cluster": {"name": "dgx-h100", "nodes": 1},
            "layout": {**layout, "mesh": {"pp": 8}, **({"stages_per_rank": chunks} if chunks > 1 else {})},
            "batch": {"sequence_length": 1024, "global_batch_size": 72},
            "software": {"framework": "zero-bubble-megatron"},
        }
    )
    found = memory_of(run, build(schedule, 8, 24, chunks))
    assert max(rank.peak_bytes for rank in found) / 1e9 == pytest.approx(measured_gb, rel=0.02)


@pytest.mark.parametrize(
    ("dp", "zero", "expected_gb"),
    [(64, 1, 31.41), (64, 2, 16.64), (64, 3, 1.88), (8, 1, 41.25), (8, 2, 28.12), (8, 3, 15.0), (8, 0, 120.0)],
)
def test_zero_divides_states_as_its_paper_says(dp: int, zero: int, expected_gb: float) -> None:
    """Table 1 of 1910.02054: 7.5 B parameters, 16 bytes each with 16-bit gradients."""
    run = make(TINY, {"dp": dp}, layout={"zero": zero}, software={"gradient_dtype": "bf16", "vocab_pad_multiple": None})
    held = memory_of(run, build("1f1b", 1, 8))[0].persistent
    states = sum(held[name] for name in ("parameters", "gradients", "optimizer"))
    full = make(TINY, {"dp": dp}, layout={"zero": 0}, software={"gradient_dtype": "bf16", "vocab_pad_multiple": None})
    parameters = memory_of(full, build("1f1b", 1, 8))[0].persistent["parameters"] / 2
    assert states / parameters * 7.5 == pytest.approx(expected_gb, abs=0.01)


def test_fsdp_gathers_units_and_a_pipeline_keeps_them() -> None:
    """Shards of 16/D bytes a parameter; whole: the root and two layers and a flat buffer at 2 bytes, two gradients of
    layers at 4. In a pipeline everything is whole: 6 bytes a parameter more."""
    sharded = {"fsdp": True, "zero": 3}
    software = {"framework": "torchtitan", "params_dtype": "fp32", "master_weights": None, "loss": "compiled"}

    def held(mesh: dict[str, int], **layout: Any) -> dict[str, float]:
        run = make(TINY, mesh, layout={**sharded, **layout}, software={**software, "vocab_pad_multiple": None})
        return dict(memory_of(run, build("1f1b", mesh.get("pp", 1), 8))[0].persistent)

    layer = 4 * 256 * 256 + 3 * 256 * 512 + 2 * 256
    root = 2 * 1024 * 256 + 256
    states = sum(held({"dp": 8})[name] for name in ("parameters", "gradients", "optimizer"))
    assert states == pytest.approx(16 / 8 * (16 * layer + root))
    assert held({"dp": 8})["communication"] == pytest.approx(2 * root + (2 + 1) * 2 * layer + 2 * 4 * layer)
    kept = held({"dp": 8}, reshard_after_forward=False)["communication"]
    assert kept == pytest.approx(2 * root + (16 + 1) * 2 * layer + 2 * 4 * layer)
    piped, first = held({"dp": 4, "pp": 2}), 8 * layer + 1024 * 256
    buffers = 8 * 2 * 4096 * 256  # the first stage receives gradients alone, one buffer for each micro-batch
    assert sum(piped.values()) - piped["reserve"] - buffers == pytest.approx((16 / 4 + 6) * first)


def saved_per_layer(**changes: Any) -> float:
    """Activation bytes that one more layer saves for one micro-batch, without what a stage has anyway."""
    runs = [
        make({**changes["model"], "layers": n}, {"tp": changes.get("tp", 1)}, m=1, **changes["parts"]) for n in (2, 3)
    ]
    held = [max(m.activations for m in memory_of(run, build("1f1b", 1, 1))[0].moments) for run in runs]
    return held[1] - held[0]


def test_a_gpt_layer_saves_what_korthikanti_counts() -> None:
    """Equations 1 and 6 of 2205.05198: sbh(34 + 5as/h), 34sbh with selective recomputation, 2sbh with full."""
    model = {**TINY, "gated_mlp": False, "ffn": 4 * 256, "norm": "layer"}
    dropout = {"attention": "unfused", "attention_dropout": 0.1, "hidden_dropout": 0.1, "loss": "megatron"}
    s, h, a = 1024, 256, 8
    for recompute, factor in (("none", 34 + 5 * a * s / h), ("selective", 34), ("full", 2)):
        parts = {"sequence": s, "layout": {"recompute": recompute}, "software": dropout}
        assert saved_per_layer(model=model, parts=parts) == pytest.approx(s * h * factor, rel=1e-9), recompute


def test_a_llama_layer_saves_its_linears_and_norms() -> None:
    """2sb(6h + 2kv + 3f) and the attention's log-sum-exp of 4 bytes a head and token."""
    s, h, kv, f = 2048, 256, 256, 512
    found = saved_per_layer(model=TINY, parts={"sequence": s})
    assert found == pytest.approx(2 * s * (6 * h + 2 * kv + 3 * f) + 4 * s * 8, rel=1e-9)


def test_tf32_keeps_words_of_four_bytes() -> None:
    """As fp32 does: the type of the multiplication is not the type that is stored."""
    fp32, tf32 = (make(TINY, {}, layout={"precision": precision}) for precision in ("fp32", "tf32"))
    assert fp32.layout.word_bytes == tf32.layout.word_bytes == 4
    moments = [memory_of(run, build("1f1b", 1, 8))[0].moments[0].activations for run in (fp32, tf32)]
    assert moments[0] == moments[1]


@pytest.mark.parametrize("schedule", names())
@pytest.mark.parametrize(("pp", "m"), [(2, 4), (4, 8), (4, 16)])
def test_every_schedule_gives_back_what_it_takes(schedule: str, pp: int, m: int) -> None:
    run, plan = make(TINY, {"pp": pp}, m=m, layout={"split": "balanced"}), build(schedule, pp, m)
    for memory, in_flight in zip(memory_of(run, plan), activation_peaks(plan), strict=True):
        assert memory.moments[-1].after == pytest.approx(0, abs=1)
        assert memory.peak is not None
        assert memory.peak.slot in plan.orders[memory.rank]
        assert memory.peak_bytes == pytest.approx(sum(memory.at_peak().values()))
        parts = {plan.placement.part_of[stage] for stage in plan.placement.stages_of(memory.rank)}
        inner = not parts & {0, plan.placement.parts - 1}
        if inner and all(op.kind in (Kind.F, Kind.B) for _, op in plan.ops()):
            # Stages alike, backwards in full: every activation in flight has the bytes of the first.
            most = max(moment.activations for moment in memory.moments)
            assert most == pytest.approx(in_flight * memory.moments[0].activations)


def test_more_in_flight_holds_more() -> None:
    run = make(TINY, {"pp": 4}, m=16)
    assert peaks(run, 16, "gpipe")[0] > peaks(run, 16, "zb-h2")[0] > peaks(run, 16, "1f1b")[0]
    full, selective, none = (
        max(peaks(make(TINY, {"pp": 4}, m=16, layout={"recompute": mode}, software={"attention": "unfused"}), 16))
        for mode in ("full", "selective", "none")
    )
    assert full < selective < none


@pytest.mark.parametrize(("sequence_parallel", "expected_gib"), [(False, 51.8), (True, 32.1)])
def test_gpt_3_with_and_without_sequence_parallelism(sequence_parallel: bool, expected_gib: float) -> None:
    """Equations 2 and 4 of 2205.05198, t = 8: 96 layers of sbh(10 + 24/t + 5as/(ht)), or of sbh(34 + 5as/h)/t.
    The first of 8 stages holds 8 micro-batches of 12 layers, and their embedding masks.
    """
    gpt = {**TINY, "layers": 96, "hidden": 12288, "heads": 96, "kv_heads": 96, "head_dim": 128, "ffn": 49152}
    gpt |= {"vocab": 51200, "gated_mlp": False, "norm": "layer", "positions": "learned", "max_positions": 2048}
    dropout = {"attention": "unfused", "attention_dropout": 0.1, "hidden_dropout": 0.1, "loss": "megatron"}
    layout = {"sequence_parallel": sequence_parallel}
    run = make(gpt, {"tp": 8, "pp": 8}, m=64, sequence=2048, layout=layout, software=dropout)
    first = memory_of(run, build("1f1b", 8, 64))[0]
    assert max(m.activations for m in first.moments) / GIB == pytest.approx(expected_gib, rel=0.005)


def test_parallelism_never_holds_more() -> None:
    plain = peaks(make(TINY, {"tp": 2}, layout={"sequence_parallel": False}), 8)[0]
    assert peaks(make(TINY, {"tp": 2}), 8)[0] < plain < peaks(make(TINY, {}), 8)[0]
    assert peaks(make(TINY, {"dp": 8}), 8)[0] < peaks(make(TINY, {"dp": 2}), 8)[0]


def test_dualpipe_holds_every_part_twice() -> None:
    run = make(TINY, {"pp": 4}, m=8)
    once = sum(rank.persistent["parameters"] for rank in memory_of(run, build("1f1b", 4, 8)))
    twice = sum(rank.persistent["parameters"] for rank in memory_of(run, build("dualpipe", 4, 8)))
    assert twice == 2 * once


def test_tied_embeddings_stand_on_both_ends_once() -> None:
    """A tied table is one tensor on one rank, and a copy of the token table alone where the ends stand apart."""
    tied = {**TINY, "tied_embeddings": True, "positions": "learned"}
    table = 2 * 1024 * 256
    alone = memory_of(make(tied, {}), build("1f1b", 1, 8))
    apart = memory_of(make(tied, {"pp": 4}), build("1f1b", 4, 8))
    together = memory_of(make(tied, {"pp": 4}), build("zb-v", 4, 8))

    def parameters(ranks: Any) -> float:
        return sum(rank.persistent["parameters"] for rank in ranks)

    assert parameters(apart) - parameters(alone) == table
    assert parameters(together) == parameters(alone)


def test_samples_follow_the_recording() -> None:
    result = simulate(make(TINY, {"pp": 4}, m=8, layout={"schedule": "zb-h1"}))
    for memory, spans in zip(result.memory, result.timeline.by_rank(), strict=True):
        samples = list(memory_samples(memory, [span for span in spans if span.op.kind in COMPUTE]))
        times = [sample.t_s for sample in samples]
        assert times == sorted(times)
        assert max(sum(sample.bytes.values()) for sample in samples) == pytest.approx(memory.peak_bytes)


def test_low_precision_copies_last_as_long_as_the_weights_they_are_made_of() -> None:
    """Row-wise and transposed, a byte an element and scales: of all layers, or of the two that FSDP has whole."""

    def copies(**layout: object) -> float:
        run = make(TINY, {"dp": 4}, layout={"precision": "fp8-current-scaling", **layout})
        (rank,) = memory_of(run, build("1f1b", 1, 8))
        return sum(item.size for item in rank.holding.items if item.name == "low-precision copies")

    layer = 2 * (1 + 1 / 64) * (4 * 256 * 256 + 3 * 256 * 512)
    assert copies() == copies(zero=3, fsdp=True, reshard_after_forward=False) == 16 * layer
    assert copies(zero=3, fsdp=True) == 2 * layer
