"""Directions: faster hardware never slows a run, more work never speeds one up, and a name changes nothing.

Over the bundled runs and others made of bundled models and clusters, played by `simulate`: no table would do.
"""

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.model.flops import model_flops
from parsim.simulation import simulate
from parsim.spec import Run, load_run, run_from_document

SAME = 1 + 1e-9  # sums of the same times in another order
STEPS = 1.05  # NCCL chooses among its algorithms, and searches its rings, at rates in steps: times are not smooth there
RATES = ("hbm_bytes_per_s", "flops_per_s", "nvlink_bytes_per_s", "host_link_bytes_per_s", "nic_bytes_per_s")
LATENCIES = ("launch_s",)

OTHERS: dict[str, dict[str, Any]] = {
    "fsdp": {
        "model": "llama3-8b",
        "cluster": {"name": "dgx-h100", "nodes": 4},
        "layout": {"mesh": {"dp": 32}, "fsdp": True, "zero": 3, "recompute": "full"},
        "batch": {"sequence_length": 4096, "global_batch_size": 64},
    },
    "ring": {
        "model": "llama3-8b",
        "cluster": {"name": "dgx-a100", "nodes": 4},
        "layout": {"mesh": {"tp": 2, "cp": 8, "dp": 2}, "zero": 1, "sequence_parallel": True},
        "batch": {"sequence_length": 16384, "global_batch_size": 8},
    },
    "experts": {
        "model": "mixtral-8x7b",
        "cluster": {"name": "dgx-h100", "nodes": 4},
        "layout": {"mesh": {"tp": 2, "dp": 4, "pp": 4}, "ep": 8, "zero": 1, "sequence_parallel": True},
        "batch": {"sequence_length": 4096, "global_batch_size": 64},
    },
    "pairs": {
        "model": "deepseek-v2",
        "cluster": {"name": "h800-deepseek", "nodes": 16},
        "layout": {"mesh": {"dp": 32, "pp": 4}, "ep": 32, "zero": 1, "schedule": "dualpipe", "split": "balanced"},
        "batch": {"sequence_length": 4096, "global_batch_size": 512},
        "software": {"moe_dispatcher": "deepep", "ep_overlap": True},
    },
    "rack": {
        "model": "llama3-70b",
        "cluster": {"name": "gb200-nvl72", "nodes": 16},
        "layout": {"mesh": {"tp": 4, "dp": 4, "pp": 4}, "precision": "mxfp8", "sequence_parallel": True, "zero": 1},
        "batch": {"sequence_length": 8192, "global_batch_size": 64},
        "software": {"tp_overlap": "te_userbuffers"},
    },
    "halves": {
        "model": "gpt3-6.7b",
        "cluster": {"name": "dgx-a100", "nodes": 2},
        "layout": {"mesh": {"dp": 2, "pp": 8}, "schedule": "zb-h1", "precision": "fp16"},
        "batch": {"sequence_length": 2048, "global_batch_size": 64},
    },
    "slow-network": {
        "model": "llama3-8b",
        "cluster": {"name": "dgx-h100", "nodes": 16, "node": {"nic_bytes_per_s": "4 GB/s"}},
        "layout": {"mesh": {"dp": 16, "pp": 8}, "schedule": "interleaved", "stages_per_rank": 4, "zero": 1},
        "batch": {"sequence_length": 2048, "global_batch_size": 128},
    },
}
BUNDLED = ("gpt3-175b-1024", "llama3-405b-16k", "llama3-70b-64", "tiny-local")
NAMES = (*BUNDLED, *OTHERS)
QUICK = tuple(name for name in NAMES if name != "llama3-405b-16k")
some = settings(max_examples=15, deadline=None)


@cache
def run_named(name: str) -> Run:
    return load_run(name) if name in BUNDLED else run_from_document(OTHERS[name])


@cache
def seconds_of(name: str) -> float:
    return step(run_named(name))


def step(run: Run) -> float:
    return simulate(run).step_time_s


def with_factor(run: Run, what: str, factor: float) -> Run:
    """The run on a machine with one number multiplied."""
    cluster = run.cluster
    node, gpu = cluster.node, cluster.node.gpu
    if what in ("nic_bytes_per_s", "nic_latency_s", "nvlink_latency_s"):
        node = node.model_copy(update={what: getattr(node, what) * factor})
    elif what == "flops_per_s":
        rates = {dtype: rate * factor for dtype, rate in gpu.flops_per_s.items()}
        fields = {name: getattr(gpu, name) for name in type(gpu).model_fields}
        node = node.model_copy(update={"gpu": type(gpu).model_validate({**fields, what: rates})})
    else:
        value = getattr(gpu, what)
        node = node.model_copy(update={"gpu": gpu.model_copy(update={what: value and value * factor})})
    return run.model_copy(update={"cluster": cluster.model_copy(update={"node": node})})


def larger(run: Run, layers: int = 0, microbatches: int = 0, tokens: int = 0) -> Run:
    """The run with more of something."""
    model = run.model.model_copy(update={"layers": run.model.layers + layers})
    batch = run.batch.model_copy(
        update={
            "sequence_length": run.batch.sequence_length + tokens,
            "global_batch_size": run.batch.global_batch_size
            + microbatches * run.layout.micro_batch_size * run.layout.mesh.dp,
        }
    )
    layout = run.layout.model_copy(update={"split": "balanced"} if layers else {})
    return run.changed(model=model, batch=batch, layout=layout)


def parts(run: Run) -> int:
    return max(run.layout.mesh.pp * (run.layout.stages_per_rank or 1), 1)


@pytest.mark.parametrize("what", [*RATES, *LATENCIES])
@pytest.mark.parametrize("name", NAMES)
def test_twice_as_fast_is_never_slower(name: str, what: str) -> None:
    """Nor faster than the one thing that got faster can make it: half, at best."""
    before = seconds_of(name)
    after = step(with_factor(run_named(name), what, 0.5 if what in LATENCIES else 2.0))
    assert before / 2 / STEPS <= after <= before * SAME


@some
@given(st.sampled_from(QUICK), st.sampled_from([*RATES, *LATENCIES]), st.floats(1.0, 3.0), st.floats(0.02, 1.0))
def test_a_little_faster_is_a_little_faster(name: str, what: str, factor: float, base: float) -> None:
    """From machines of any speed: times fall, and by no more than the rate's own share.

    But for links, where NCCL may choose what takes a little longer on slightly faster ones, and for pairs of ops that
    take turns on two streams, which a faster op may rearrange.
    """
    sign = -1 if what in LATENCIES else 1
    start = with_factor(run_named(name), what, base**sign)
    before, after = step(start), step(with_factor(start, what, factor**sign))
    smooth = what not in ("nic_bytes_per_s", "nvlink_bytes_per_s")
    assert after <= before * (SAME if smooth and name != "pairs" else STEPS)
    if smooth:
        assert after >= before / factor / SAME


@pytest.mark.parametrize("name", NAMES)
def test_each_rate_matters_somewhere_and_all_together_at_most_double(name: str) -> None:
    run = run_named(name)
    for what in (*RATES, *LATENCIES):
        run = with_factor(run, what, 0.5 if what in LATENCIES else 2.0)
    assert seconds_of(name) / 2 / STEPS <= step(run) < seconds_of(name)


def test_every_number_of_the_machine_is_read_by_a_run_that_uses_it() -> None:
    """The host's link by GPUs that have no other."""
    bare = with_factor(run_named("gpt3-175b-1024"), "nvlink_bytes_per_s", 0.0)
    assert step(with_factor(bare, "host_link_bytes_per_s", 0.5)) > step(bare)
    used = {
        "hbm_bytes_per_s": "fsdp",
        "flops_per_s": "fsdp",
        "nvlink_bytes_per_s": "gpt3-175b-1024",
        "nic_bytes_per_s": "fsdp",
        "launch_s": "experts",
    }
    assert {*used, "host_link_bytes_per_s"} == {*RATES, "launch_s"}
    for what, name in used.items():
        factor = 2.0 if what in LATENCIES else 0.5
        assert step(with_factor(run_named(name), what, factor)) > seconds_of(name), (what, name)


@pytest.mark.parametrize("what", ["launch_s", "hbm_bytes_per_s", "flops_per_s"])
def test_forwards_hide_gathers_once(what: str) -> None:
    """The stages of a rank share the forwards that their gathers hide behind: if each could have them all, a slower GPU
    would hide more than it takes longer.
    """
    document = OTHERS["slow-network"]
    layout = {**document["layout"], "mesh": {"dp": 32, "pp": 4}, "stages_per_rank": 8}
    run = run_from_document({**document, "layout": layout})
    run = with_factor(run, "nic_bytes_per_s", 0.1)
    times = [step(with_factor(run, what, factor)) for factor in (0.25, 0.5, 1.0, 2.0, 4.0)]
    assert times == sorted(times, reverse=what != "launch_s")


def test_an_override_says_the_same() -> None:
    for path, what in (
        ("cluster.node.gpu.hbm_bytes_per_s=6.7 TB/s", "hbm_bytes_per_s"),
        ("cluster.node.gpu.nvlink_bytes_per_s=900 GB/s", "nvlink_bytes_per_s"),
        ("cluster.node.nic_bytes_per_s=100 GB/s", "nic_bytes_per_s"),
    ):
        assert step(load_run("llama3-70b-64", [path])) == pytest.approx(
            step(with_factor(run_named("llama3-70b-64"), what, 2.0)), rel=1e-12
        )


@pytest.mark.parametrize("name", NAMES)
def test_more_layers_take_longer_and_each_round_of_them_the_same(name: str) -> None:
    """A layer more on every stage, twice: both cost the same, but for what overlap hides of it."""
    run = run_named(name)
    whole = parts(run)
    plain, one, first, second = (step(larger(run, layers=more)) for more in (0, 1, whole, 2 * whole))
    assert plain <= one * SAME
    assert one <= first * SAME
    assert plain < first < second
    assert (second - first) / (first - plain) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_more_micro_batches_take_longer_and_each_round_of_them_the_same(name: str) -> None:
    run = run_named(name)
    times = [step(larger(run, microbatches=more * run.layout.mesh.pp)) for more in (0, 2, 4)]
    gained = [after - before for before, after in pairwise(times)]
    assert min(gained) > 0
    assert gained[1] == pytest.approx(gained[0], rel=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_longer_sequences_take_longer_without_jumps(name: str) -> None:
    """Work grows by more than tokens and less than their square; steps of whole tiles add at most 12% to that."""
    run = run_named(name)
    if run.model.positions == "learned":
        run = run.changed(model=run.model.model_copy(update={"max_positions": 1 << 20}))
    unit = max(run.batch.sequence_length // 8, 128)
    times = [step(larger(run, tokens=more * unit)) for more in range(4)]
    work = [
        model_flops(run.model, run.batch.sequence_length + more * unit, run.batch.global_batch_size)
        for more in range(4)
    ]
    for more in range(3):
        assert times[more] / SAME <= times[more + 1] <= 1.12 * times[more] * work[more + 1] / work[more]


@some
@given(st.sampled_from(QUICK), st.integers(0, 4), st.integers(0, 3), st.integers(0, 4))
def test_time_follows_work(name: str, layers: int, rounds: int, eighths: int) -> None:
    """More of all at once: never faster, and never much slower than the work says."""
    run = run_named(name)
    if run.model.positions == "learned":
        run = run.changed(model=run.model.model_copy(update={"max_positions": 1 << 20}))
    more = larger(
        run, layers * parts(run), 2 * rounds * run.layout.mesh.pp, eighths * max(run.batch.sequence_length // 8, 128)
    )
    work = [model_flops(each.model, each.batch.sequence_length, each.batch.global_batch_size) for each in (run, more)]
    ratio = step(more) / seconds_of(name)
    assert 1 / SAME <= ratio <= 1.15 * work[1] / work[0]


@pytest.mark.parametrize("name", NAMES)
def test_names_mean_nothing(name: str) -> None:
    run = run_named(name)
    gpu = run.cluster.node.gpu.model_copy(update={"name": "another-gpu"})
    node = run.cluster.node.model_copy(update={"name": "another-node", "gpu": gpu})
    renamed = run.model_copy(
        update={
            "name": "another",
            "model": run.model.model_copy(update={"name": "another-model"}),
            "cluster": run.cluster.model_copy(update={"name": "another-cluster", "node": node}),
        }
    )
    before, after = simulate(run), simulate(renamed)
    assert after.step_time_s == before.step_time_s
    assert after.exposed_s == before.exposed_s
    assert after.bubble == before.bubble
