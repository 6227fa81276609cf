"""Pipelines in numbers: makespans, bubbles, messages and activations in flight, as the players find them.

Unit times as the papers draw them: F = I = W = 1, B = I + W.
"""

import json
from typing import Any

import pytest

from parsim.axes.pp import PipelineAxis
from parsim.cli import run as parsim
from parsim.cost import RooflineCost, parse_times
from parsim.cost.run_axes import axes_of
from parsim.errors import SpecError
from parsim.explanation.ramp import BatchRamp, RampStage, ramp_batches
from parsim.model.dims import model_sizes
from parsim.network.groups import axis_groups
from parsim.plan import Kind, Op, Slot, add_p2p, straight
from parsim.schedule_result import ScheduleResult, play_schedule
from parsim.schedules import build
from parsim.simulation import simulate
from parsim.spec import Mesh, Run, load_cluster, load_model, run_from_document


def played(name: str, pp: int, m: int, v: int | None = None, times: str = "") -> ScheduleResult:
    return play_schedule(build(name, pp, m, v), parse_times(times))


def run_of(model: str, mesh: dict[str, int], m: int, sequence: int = 2048, **layout: object) -> Run:
    ranks = mesh.get("tp", 1) * mesh.get("dp", 1) * mesh.get("pp", 1)
    return run_from_document(
        {
            "model": model,
            "cluster": {"name": "dgx-h100", "nodes": -(-ranks // 8)},
            "layout": {"mesh": mesh, "split": "balanced", **layout},
            "batch": {"sequence_length": sequence, "global_batch_size": m * mesh.get("dp", 1)},
        }
    )


@pytest.mark.parametrize("pp", [2, 4, 8])
def test_row_17_naive_model_parallelism_uses_one_rank_at_a_time(pp: int) -> None:
    result = played("gpipe", pp, 1)
    assert [use.busy / result.makespan for use in result.bubble.ranks] == [1 / pp] * pp
    assert result.bubble.of_makespan == pytest.approx(1 - 1 / pp)


@pytest.mark.parametrize("cut", [False, True])
def test_row_18_a_boundary_carries_an_activation_and_its_gradient(cut: bool) -> None:
    """s b h 2 bytes each way for every micro-batch, a t-th of it where ranks of tp each have a slice."""
    run = run_of("gpt3-175b", {"tp": 8, "pp": 4}, 6, sequence_parallel=cut)
    axes = axes_of(run)
    message = axes.pipeline.message(axes.sizes(run))
    assert message.size_bytes == 2048 * 12288 * 2 / (8 if cut else 1)
    assert message == PipelineAxis(4, 1 / 8 if cut else 1.0).message(model_sizes(run.model, 1, 2048))
    sends = [op.kind for _, op in add_p2p(build("1f1b", 4, 6)).ops() if op.kind in (Kind.SEND_F, Kind.SEND_B)]
    assert (sends.count(Kind.SEND_F), sends.count(Kind.SEND_B)) == (3 * 6, 3 * 6)


@pytest.mark.parametrize(("pp", "m", "makespan", "over"), [(4, 8, 33, 3 / 8), (8, 32, 117, 7 / 32)])
def test_rows_19_and_22_gpipe_and_1f1b(pp: int, m: int, makespan: float, over: float) -> None:
    """(m+p-1)(F+B); in flight m on every rank, or min(p-s, m): the gain is memory."""
    results = [played(name, pp, m, times="F=1,B=2") for name in ("gpipe", "1f1b")]
    for result in results:
        assert result.makespan == makespan
        assert result.bubble.over_ideal == pytest.approx(over)
    assert results[0].peak_activations == (m,) * pp
    assert results[1].peak_activations == tuple(range(pp, 0, -1))


@pytest.mark.parametrize(("pp", "m", "v", "over"), [(4, 8, 2, 3 / 16), (4, 8, 4, 3 / 32), (8, 32, 2, 7 / 64)])
def test_row_23_interleaving(pp: int, m: int, v: int, over: float) -> None:
    """Bubble over ideal (p-1)/(vm), v times the messages, more activations: 11 half-stages for 4 stages."""
    result = played("interleaved", pp, m, v, "F=1,B=2")
    assert result.bubble.over_ideal == pytest.approx(over)
    plans = build("1f1b", pp, m), build("interleaved", pp, m, v)
    crossed = [sum(op.kind is Kind.SEND_F for _, op in add_p2p(plan).ops()) / m for plan in plans]
    assert crossed == [pp - 1, pp * v - 1]
    if (pp, m, v) == (4, 8, 2):
        assert result.peak_activations[0] / v == 5.5
        assert played("1f1b", pp, m).peak_activations[0] == 4


def test_row_23_ten_micro_batches_on_four_ranks() -> None:
    """PyTorch's grouping: fewer rounds of more micro-batches; the work is done, and no faster than ideal."""
    result = played("interleaved", 4, 10, 2, "F=1,B=2")
    assert {use.busy for use in result.bubble.ranks} == {3 * 10 * 2}
    assert result.makespan > 3 * 10 * 2


@pytest.mark.parametrize(("pp", "m", "makespan", "bubble"), [(4, 8, 27, 3), (8, 32, 103, 7)])
def test_row_24_zb_h1(pp: int, m: int, makespan: float, bubble: float) -> None:
    """(p-1)(F+I-W) of bubble against 1F1B's (p-1)(F+B); spans are a slant; p activations from F to W on every rank."""
    result = played("zb-h1", pp, m)
    assert result.makespan == makespan
    assert [use.idle for use in result.bubble.ranks] == [bubble] * pp
    assert [use.idle for use in played("1f1b", pp, m).bubble.ranks] == [3 * bubble] * pp
    spans = [row[-1].end_s - row[0].start_s for row in result.timeline.by_rank()]
    assert spans == [makespan - rank for rank in range(pp)]
    assert result.peak_activations == (pp,) * pp


@pytest.mark.parametrize(("pp", "m"), [(4, 8), (8, 32)])
def test_row_24_zb_h2_and_zb_v(pp: int, m: int) -> None:
    """No bubble inside a rank's span: at about 2p activations, or at p (2p halves) with both ends on one rank."""
    for name, peak in (("zb-h2", 2 * pp - 1), ("zb-v", 2 * pp)):
        result = played(name, pp, m)
        assert result.bubble.of_span == 0
        assert max(result.peak_activations) == peak
    placement = build("zb-v", pp, m).placement
    assert placement.rank_of[0] == placement.rank_of[placement.stages - 1] == 0


@pytest.mark.parametrize(("pp", "m", "pair"), [(8, 20, 3.0), (8, 20, 2.5), (16, 40, 2.0)])
def test_row_25_dualpipe(pp: int, m: int, pair: float) -> None:
    """(p/2-1)(F&B + B - 3W), B the full backward; every part's weights twice; p+1 activations."""
    result = played("dualpipe", pp, m, times=f"FB={pair}")
    assert max(use.idle for use in result.bubble.ranks) == pytest.approx((pp / 2 - 1) * (pair + 2 - 3))
    assert result.peak_activations == (pp + 1,) * pp
    placement = result.plan.placement
    assert [len(placement.twins(stage)) for stage in range(placement.stages)] == [2] * placement.stages


def test_row_26_a_growing_batch_fills_the_pipeline() -> None:
    """A ramp of the batch is a row of steps: at p 8 the bubble of the first is (p-1)/m, of the last 1/27 of that."""
    results = [simulate(run_of("gpt3-6.7b", {"pp": 8}, m)) for m in (8, 16, 32, 64, 216)]
    over = [result.bubble.over_ideal for result in results]
    assert over == sorted(over, reverse=True)
    units = [played("1f1b", 8, m).bubble.over_ideal for m in (8, 16, 32, 64, 216)]
    assert units == pytest.approx([7 / m for m in (8, 16, 32, 64, 216)])


def test_row_26_a_ramp_is_dearer_than_its_samples_in_the_full_batch() -> None:
    """Megatron's 16 16 of GPT-3's ramp to 96: five sizes, each for a fifth of the samples; bubbles weighted by time."""
    found = ramp_batches(16, 16, 24_000, 96)
    assert [batch for batch, _ in found] == [16, 32, 48, 64, 80]
    samples = [batch * steps for batch, steps in found]
    assert samples == pytest.approx([4800] * 5, abs=96)
    assert sum(samples) >= 24_000

    def stage(batch: int, steps: int) -> RampStage:
        units = played("1f1b", 8, batch)
        return RampStage(batch, batch, steps, units.bubble.makespan, units.bubble.of_makespan, None)

    ramp = BatchRamp(tuple(stage(*each) for each in found), stage(96, 1), 2048)
    work = 3.0  # F, I and W of a unit each
    assert ramp.seconds == pytest.approx(sum(steps * work * (batch + 7) for batch, steps in found))
    lost = sum(steps * work * 7 for _, steps in found) - ramp.samples / 96 * work * 7
    assert ramp.document()["lost_s"] == pytest.approx(lost)
    assert ramp.bubble_of_makespan == pytest.approx(sum(steps * work * 7 for _, steps in found) / ramp.seconds)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((96, 16, 1e6, 96), "start 96: .* 1 to 95 would do"),
        ((16, 33, 1e6, 96), "increment 33: must divide 96 - 16 = 80; 20 would do"),
        ((16, 16, 0, 96), "samples 0"),
    ],
)
def test_row_26_a_ramp_that_does_not_reach_the_batch_is_refused(asked: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        ramp_batches(*asked)


def test_row_26_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["ramp", "llama3-70b-64", "--start", "64", "--increment", "64", "--samples", "1e4", "--json", "-"]
    assert parsim(asked) == 0
    document = json.loads(capsys.readouterr().out)
    bubbles = [stage["bubble_of_makespan"] for stage in (*document["stages"], document["full"])]
    assert bubbles == sorted(bubbles, reverse=True)
    assert document["lost_s"] > 0
    assert document["tokens"] == document["samples"] * 8192


def test_row_27_three_axes_on_32_ranks() -> None:
    """tp 4, dp 2, pp 4 on nodes of eight: tp inside a node, neighbours of a pipeline on different ones."""
    cluster, mesh = load_cluster("dgx-h100").model_copy(update={"nodes": 4}), Mesh(tp=4, dp=2, pp=4)
    found = {axis: axis_groups(cluster, mesh, axis) for axis in ("tp", "dp", "pp")}
    assert {axis: (group.count, group.ranks) for axis, group in found.items()} == {
        "tp": (8, 4),
        "dp": (16, 2),
        "pp": (8, 4),
    }
    assert (found["tp"].nodes, found["tp"].domains) == (1, 1)
    assert found["pp"].nodes == 4
    slow = RooflineCost(run_of("gpt3-6.7b", {"tp": 4, "dp": 2, "pp": 4}, 8), straight(4)).hop_seconds(0, 1)
    fast = RooflineCost(run_of("gpt3-6.7b", {"pp": 4}, 8), straight(4)).hop_seconds(0, 1)
    assert slow > fast


def test_row_53_prediction_layers_burden_the_last_rank() -> None:
    """One more layer and one more head: the last rank gains that in F, no other rank gains anything."""
    plain = load_model("llama3-8b")
    runs = [
        run_of("llama3-8b", {"tp": 4, "pp": 4}, 8, sequence_parallel=True).changed(
            model=plain.model_copy(update={"mtp_layers": count})
        )
        for count in (0, 1)
    ]
    costs = [RooflineCost(run, straight(4)) for run in runs]
    gained = [costs[1].seconds(Slot(Op(s, Kind.F, 0))) - costs[0].seconds(Slot(Op(s, Kind.F, 0))) for s in range(4)]
    assert gained[:3] == [0, 0, 0]
    more = runs[0].changed(model=plain.model_copy(update={"layers": plain.layers + 4}))
    layer = RooflineCost(more, straight(4)).seconds(Slot(Op(1, Kind.F, 0))) - costs[0].seconds(Slot(Op(1, Kind.F, 0)))
    head = costs[0].seconds(Slot(Op(3, Kind.F, 0))) - costs[0].seconds(Slot(Op(2, Kind.F, 0)))
    assert gained[3] > layer + head
    assert gained[3] == pytest.approx(layer + head, rel=0.15)  # and a projection of twice the hidden width
