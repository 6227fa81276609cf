"""Memory over time: what the first step leaves behind, when a peak is, and what is held between passes and updates."""

from typing import Any

import pytest

from parsim.memory import MemorySummary, RankMemory, holdings_of, memory_of, peak_bytes, profiles_of
from parsim.memory.peak import peak_rows, peak_text
from parsim.memory.states import bytes_per_parameter
from parsim.plan import Kind, Plan, Slot, add_gradient_reduction, add_optimizer_step, parse_csv, parse_slot, write_csv
from parsim.schedules import build, names
from parsim.simulation import simulate
from parsim.spec import Run
from tests.memory.runs import LLAMA_70B, TINY, TINY_EXPERTS, make


def updating(plan: Plan) -> Plan:
    return add_optimizer_step(add_gradient_reduction(plan))


def plain(**software: Any) -> Run:
    """One process of plain PyTorch: fp32, nothing allocated before it is needed; many tokens, so that the forward's
    activations are more than the gradients that its backward makes."""
    stated = {"framework": "pytorch", "attention": "unfused", "loss": "torch", **software}
    return make(TINY, {}, m=1, layout={"precision": "fp32", "zero": 0}, software=stated)


def played(run: Run) -> RankMemory:
    (memory,) = memory_of(run, updating(build("1f1b", 1, run.microbatches)))
    return memory


@pytest.mark.parametrize(("optimizer", "numbers"), [("adam", 2), ("momentum", 1), ("sgd", 0)])
def test_states_that_the_first_update_makes_show_in_the_second_step(optimizer: str, numbers: int) -> None:
    """Adam keeps 8 bytes a parameter (14.69 MB of them 29.38 MB), momentum 4, plain SGD none: the second peak is that
    much higher, and at the end of the forward, where no gradient is."""
    memory = played(plain(optimizer=optimizer))
    first, second = (max(m.size for m in step if not m.updates) for step in memory.steps)
    assert first == second
    weights = memory.persistent["parameters"] / 4
    assert memory.persistent["optimizer"] == 4 * numbers * weights
    one, two = memory.peaks_of_steps
    assert two - one == pytest.approx(4 * numbers * weights)
    assert memory.peak_step == (2 if numbers else 1)
    assert memory.peak is not None
    assert memory.peak.gradients == 0
    assert memory.peak.slot.first.kind in (Kind.F, Kind.B)


def test_gradients_that_are_zeroed_stay_and_those_set_to_none_go() -> None:
    """Between two steps 4 bytes a parameter: persistent in Megatron's buffers, none in plain PyTorch."""
    memory = played(plain())
    *_, update = memory.moments
    assert update.updates
    assert update.gradients == pytest.approx(memory.persistent["parameters"])
    assert update.gradients_after == 0
    assert memory.persistent["gradients"] == 0
    kept = played(make(TINY, {}, m=1, layout={"precision": "fp32", "zero": 0}, software={"attention": "unfused"}))
    assert kept.persistent["gradients"] == kept.persistent["parameters"]


def test_accumulation_holds_fewer_activations_and_gradients_all_the_time() -> None:
    """One batch of 32 against four of 8: a quarter of the activations; from the second micro-batch on the gradients of
    the first lie beside them."""
    software = {"framework": "pytorch", "attention": "unfused", "loss": "torch"}
    once = make(TINY, {}, m=8, layout={"precision": "fp32", "zero": 0, "micro_batch_size": 8}, software=software)
    often = make(TINY, {}, m=8, layout={"precision": "fp32", "zero": 0, "micro_batch_size": 2}, software=software)
    large, small = played(once), played(often)
    assert small.moments[0].activations == pytest.approx(large.moments[0].activations / 4)
    assert small.peak is not None
    assert small.peak.gradients == pytest.approx(small.persistent["parameters"])
    assert small.peak_bytes < large.peak_bytes


@pytest.mark.parametrize(("optimizer", "expected"), [("sgd", 0), ("momentum", 4), ("adam", 8), ("lamb", 8)])
def test_row_42_numbers_that_optimizers_keep(optimizer: str, expected: int) -> None:
    run = plain(optimizer=optimizer)
    assert bytes_per_parameter(run).optimizer == expected


def test_muon_keeps_one_number_of_a_matrix_and_two_of_all_else() -> None:
    held = {name: played(plain(optimizer=name)).persistent["optimizer"] for name in ("adam", "momentum", "muon")}
    tables = 2 * 1024 * 256 + (2 * 16 + 1) * 256  # embedding, head, norms
    assert held["muon"] - held["momentum"] == 4 * tables
    assert held["momentum"] < held["muon"] < held["adam"]


@pytest.mark.parametrize(
    ("framework", "gradient", "expected"),
    [
        ("megatron-core", None, 18),  # Megatron-LM#654
        ("zero-bubble-megatron", None, 16),
        ("deepspeed", None, 16),
        ("deepspeed", "fp32", 18),
        ("torchtitan", None, 16),
        ("llm-foundry-fsdp1", None, 16),
        ("internevo", "fp32", 16),
        ("pytorch", None, 16),
    ],
)
def test_bytes_per_parameter_of_frameworks(framework: str, gradient: str | None, expected: int) -> None:
    software = {"framework": framework, "loss": "torch", "attention": "unfused", "gradient_dtype": gradient}
    each = bytes_per_parameter(make(TINY, {}, layout={"zero": 0}, software=software))
    assert each.parameters + each.gradients + each.optimizer == expected


def test_masters_that_are_the_weights_themselves_count_once() -> None:
    """Whatever a file says of masters beside fp32 weights."""
    software = {"framework": "torchtitan", "loss": "torch", "master_weights": "fp32"}
    assert bytes_per_parameter(make(TINY, {}, layout={"zero": 0}, software=software)).optimizer == 8


def test_states_of_experts_are_shared_by_those_that_hold_the_same() -> None:
    """12 / (dp * cp * tp / (ep * expert_tp)) bytes; all other states 12 / (dp * cp)."""
    run = make(TINY_EXPERTS, {"dp": 8, "tp": 2}, layout={"ep": 4, "sequence_parallel": True})
    assert bytes_per_parameter(run).optimizer == 12 / 8
    assert bytes_per_parameter(run, expert=True).optimizer == 12 / 4


def test_low_precision_copies_take_two_bytes_of_every_matrix() -> None:
    """Not of embedding, head, norms or router."""
    wide, narrow = (
        memory_of(make(TINY, {}, layout={"precision": precision}), build("1f1b", 1, 8))[0].persistent["parameters"]
        for precision in ("bf16", "mxfp8")
    )
    matrices = 16 * (4 * 256 * 256 + 3 * 256 * 512)
    assert narrow - wide == pytest.approx(2 * matrices, rel=0.02)


def test_an_update_needs_what_the_framework_needs() -> None:
    """fp16 Megatron 4 bytes of gradients, foreach AdamW 4 of its shard, InternEvo as much as its states: the step
    competes with the passes, whose gathered parameters are gone by then."""
    few = {"recompute": "full", "zero": 0}

    def update(framework: str, release: str | None = None, **layout: Any) -> float:
        software = {
            "framework": framework,
            "preset_version": release,
            "loss": "torch",
            "attention": "unfused",
            "gradient_dtype": None,
        }
        run = make(TINY, {"dp": 2}, m=1, sequence=128, layout={**few, **layout}, software=software)
        return played(run).moments[-1].temporaries / (played(run).persistent["parameters"])

    assert update("zero-bubble-megatron") == 4 / 2
    assert update("megatron-core") == 0
    assert update("torchtitan", "2024-12", fsdp=True, zero=3) == 4 / 4
    assert update("torchtitan", "2025-06", fsdp=True, zero=3) == 0  # its AdamW is a fused one since
    assert update("internevo", zero=1) == pytest.approx((12 / 2 + 2) / 2)
    sharded = make(TINY, {"dp": 2}, m=1, layout={"fsdp": True, "zero": 3}, software={"framework": "torchtitan"})
    memory = played(sharded)
    update_moment = memory.moments[-1]
    assert memory.by_category(update_moment)["communication"] == 0
    assert memory.by_category(memory.moments[0])["communication"] > 0


@pytest.mark.parametrize("schedule", names())
def test_every_rank_has_a_curve_and_its_peak_a_moment(schedule: str) -> None:
    """The curve's highest sample is the peak, all of it by name; it ends where it began."""
    run = make(TINY, {"pp": 4}, m=8, layout={"schedule": schedule, "split": "balanced"})
    result = simulate(run)
    for memory in result.memory:
        samples = [sample for sample in result.timeline.memory if sample.rank == memory.rank]
        assert max(sum(sample.bytes.values()) for sample in samples) == pytest.approx(memory.peaks_of_steps[-1])
        assert [sample.t_s for sample in samples] == sorted(sample.t_s for sample in samples)
        assert sum(row.size for row in peak_rows(memory)) == pytest.approx(memory.peak_bytes)
        assert memory.peak is not None
        assert f"of {memory.peak.slot}: " in peak_text(memory)
        assert f"{memory.peak_bytes / 2**30:.1f} GiB" in peak_text(memory)
        assert sum(samples[-1].bytes.values()) == pytest.approx(sum(memory.persistent.values()))


def test_a_plan_of_the_users_own_is_replayed_as_it_stands() -> None:
    """The CSV of a schedule holds what the schedule does; with its last warm-up forward moved back, less."""
    run, plan = make(TINY, {"pp": 2}, m=4), build("1f1b", 2, 4)
    again = parse_csv(write_csv(plan), "again")
    expected = [rank.peak_bytes for rank in memory_of(run, plan)]
    assert [rank.peak_bytes for rank in memory_of(run, again)] == expected
    eager = parse_csv("0F0,0F1,0F2,0B0,0F3,0B1,0B2,0B3\n1F0,1B0,1F1,1B1,1F2,1B2,1F3,1B3\n", "eager")
    assert memory_of(run, eager)[0].peak_bytes > expected[0]
    assert memory_of(run, eager)[1].peak_bytes == expected[1]


def test_the_moment_names_what_is_largest() -> None:
    """A last stage of one micro-batch peaks in its loss, a first one of many in its last layer."""
    first, last = memory_of(make(LLAMA_70B, {"pp": 2, "dp": 4}), build("1f1b", 2, 8))
    assert peak_text(last) == "step 1, in the loss of 1B0: logits 3.1 of 63.0 GiB"
    assert peak_text(first).startswith("step 1, in the activation of 0B0: ")


def test_three_memories_of_a_device() -> None:
    """Allocated, reserved above it, the device above that; near the limit the allocator gives blocks back."""
    ranks = memory_of(make(LLAMA_70B, {"pp": 2, "dp": 4}), build("1f1b", 2, 8))
    ample, tight, small = (MemorySummary(ranks, size * 2.0**30) for size in (192, 70, 60))
    assert ample.allocated < ample.reserved < ample.device
    assert ample.reserved == pytest.approx(1.05 * ample.allocated)
    assert (ample.fits, tight.fits, small.fits) == (True, True, False)
    assert (ample.is_capped, tight.is_capped) == (False, True)
    assert tight.device == tight.capacity
    assert "tight" in tight.warnings[0]
    assert small.margin == pytest.approx(small.capacity - 1.5 * 2**30 - small.allocated)
    assert "does not fit" in small.warnings[0]
    assert "in the activation of 0B0" in small.warnings[0]
    assert ample.warnings == ()


def without_a_flush(order: str) -> tuple[Slot, ...]:
    return tuple(parse_slot(op) for op in order.split())


def test_updates_between_passes_keep_the_weights_that_are_needed() -> None:
    """PipeDream (1806.03377): each micro-batch updates its stage, and goes back with the weights it went forward with.
    Stage s of p holds p - s versions: two on the first of two ranks, one on the last.
    """
    run, pp2 = make(TINY, {"pp": 2}, m=4), build("1f1b", 2, 4)
    orders = (
        without_a_flush("0F0 0F1 0B0 0STEP 0F2 0B1 0STEP 0F3 0B2 0STEP 0B3 0STEP"),
        without_a_flush("1F0 1B0 1STEP 1F1 1B1 1STEP 1F2 1B2 1STEP 1F3 1B3 1STEP"),
    )
    plan = Plan("pipedream", pp2.placement, 4, orders)
    found, flushed = memory_of(run, plan), memory_of(run, pp2)
    copies = [max(moment.versions for moment in memory.moments) / memory.persistent["parameters"] for memory in found]
    assert copies == [1, 0]
    assert found[0].peak_bytes == pytest.approx(flushed[0].peak_bytes + found[0].persistent["parameters"])
    assert found[1].peak_bytes == flushed[1].peak_bytes
    assert sum(row.size for row in peak_rows(found[0])) == pytest.approx(found[0].peak_bytes)
    closed = peak_bytes(profiles_of(plan), holdings_of(run, plan.placement))
    assert closed == pytest.approx([memory.peak_bytes for memory in found], rel=1e-12)


def test_two_versions_are_enough_where_updates_wait() -> None:
    """PipeDream-2BW (2006.09503): an update every m >= p micro-batches leaves one older version beside the newest."""
    run, pp2 = make(TINY, {"pp": 2}, m=4), build("1f1b", 2, 4)
    orders = (
        without_a_flush("0F0 0F1 0B0 0F2 0B1 0STEP 0F3 0B2 0B3 0STEP"),
        without_a_flush("1F0 1B0 1F1 1B1 1STEP 1F2 1B2 1F3 1B3 1STEP"),
    )
    found = memory_of(run, Plan("2bw", pp2.placement, 4, orders))
    versions = [[moment.versions / memory.persistent["parameters"] for moment in memory.moments] for memory in found]
    assert max(versions[0]) == 1
    assert versions[0][-1] == 0  # at the end nothing is on its way
    assert max(versions[1]) == 0
