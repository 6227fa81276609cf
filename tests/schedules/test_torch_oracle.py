"""PyTorch's own pipelining as an oracle: its tables are ours, and its loaders accept what we write.

Skipped where torch is not installed. PyTorch's schedules want stage objects; a stand-in with the four numbers they
read is enough, for nothing is run.
"""

import warnings
from itertools import chain, pairwise
from types import SimpleNamespace

import pytest

from parsim.plan import Kind, Plan, add_gradient_reduction, add_p2p, compute_only, parse_csv, parse_slot, vee, write_csv
from parsim.schedules import build

MULTI = {
    "interleaved": "ScheduleInterleaved1F1B",
    "looped-bfs": "ScheduleLoopedBFS",
    "interleaved-zb": "ScheduleInterleavedZeroBubble",
    "zb-v": "ScheduleZBVZeroBubble",
    "dualpipe-v": "ScheduleDualPipeV",
}
SIZES = [
    (name, pp, m, v)
    for name in MULTI
    for pp in range(1, 9)
    for m in (1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 21, 24)
    for v in ((2,) if name in ("zb-v", "dualpipe-v") else (2, 3, 4))
]


@pytest.fixture(scope="module")
def pipelining():
    """torch.distributed.pipelining.schedules, or a skip."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates parts of itself while it is imported
        pytest.importorskip("torch", reason="needs torch: pip install parsim-train[run]")
        from torch.distributed.pipelining import schedules
    return schedules


def stand_in(index: int, stages: int, pp: int):
    """What a schedule's constructor reads of a stage."""
    return SimpleNamespace(
        stage_index=index,
        num_stages=stages,
        group_size=pp,
        group_rank=0,
        is_first=index == 0,
        is_last=index == stages - 1,
        submod=None,
        has_backward=True,
    )


def local_stages(pp: int, v: int) -> list:
    return [stand_in(index * pp, pp * v, pp) for index in range(v)]


def rows(pipeline_order) -> list[list[str]]:
    """PyTorch's table without idle cells, in the spelling that both sides share."""
    return [[str(action) for action in pipeline_order[rank] if action is not None] for rank in sorted(pipeline_order)]


def ours(plan: Plan) -> list[list[str]]:
    return [[str(slot) for slot in order] for order in plan.orders]


def theirs(pipelining, name: str, pp: int, m: int, v: int) -> list[list[str]] | None:
    """PyTorch's table, or None where its schedule is not defined at this size."""
    try:
        return rows(getattr(pipelining, MULTI[name])(local_stages(pp, v), m).pipeline_order)
    except ValueError:
        return None


@pytest.mark.parametrize("name", MULTI)
def test_tables_are_pytorchs(pipelining, name: str) -> None:
    compared = 0
    for _, pp, m, v in (size for size in SIZES if size[0] == name):
        table = theirs(pipelining, name, pp, m, v)
        if table is not None:
            assert ours(build(name, pp, m, v)) == table, (pp, m, v)
            compared += 1
    assert compared > 30


def test_gpipe_is_pytorchs(pipelining) -> None:
    """Its table ends each row with the gradient reduction, where our pass puts it."""
    for pp in range(1, 9):
        for m in (1, 2, 4, 7, 16):
            table = rows(pipelining.ScheduleGPipe(stand_in(0, pp, pp), m).pipeline_order)
            assert ours(add_gradient_reduction(build("gpipe", pp, m))) == table


def test_1f1b_is_pytorchs_but_on_the_last_rank(pipelining) -> None:
    """2.13's table begins with micro-batch 1 there (its runtime is right); the kinds are the same."""
    for pp in range(1, 9):
        for m in (pp, pp + 1, 2 * pp, 3 * pp + 1):
            table = rows(pipelining.Schedule1F1B(stand_in(0, pp, pp), m).pipeline_order)
            mine = ours(add_gradient_reduction(build("1f1b", pp, m)))
            assert mine[:-1] == table[:-1]
            assert [cell.rstrip("0123456789") for cell in mine[-1]] == [cell.rstrip("0123456789") for cell in table[-1]]


LOADABLE = [
    ("gpipe", 4, 8, 1),
    ("1f1b", 4, 8, 1),
    ("1f1b", 4, 2, 1),
    ("zb-h1", 4, 8, 1),
    ("zb-h2", 4, 8, 1),
    ("interleaved", 4, 10, 2),
    ("interleaved-zb", 4, 8, 3),
    ("looped-bfs", 3, 5, 2),
    ("zb-v", 4, 5, 2),
    ("dualpipe-v", 4, 9, 2),
]


@pytest.mark.parametrize(("name", "pp", "m", "v"), LOADABLE)
def test_pytorch_loads_what_we_write(pipelining, tmp_path, name: str, pp: int, m: int, v: int) -> None:
    plan = build(name, pp, m, v)
    for form, written in [
        ("compute_only", plan),
        ("compute_comms", add_p2p(plan)),
        ("compute_comms", add_p2p(add_gradient_reduction(plan))),
    ]:
        path = tmp_path / f"{form}.csv"
        path.write_text(write_csv(written))
        stages = local_stages(pp, v)
        runtime = pipelining._PipelineScheduleRuntime(stages, m)
        runtime._load_csv(str(path), format=form)
        on_ranks = dict(enumerate(plan.placement.rank_of))
        assert runtime.stage_index_to_group_rank == on_ranks
        if form == "compute_comms":
            assert rows(runtime.pipeline_order_with_comms) == ours(written)


@pytest.mark.parametrize(("name", "pp", "m", "v"), LOADABLE)
def test_pytorchs_own_player_plays_our_messages(pipelining, name: str, pp: int, m: int, v: int) -> None:
    """Its dry run raises on gradient reductions and on overlapped pairs, so neither is shown to it."""
    with_messages = add_p2p(build(name, pp, m, v))
    apart = [[str(op) for slot in order for op in slot.ops] for order in with_messages.orders]
    table = {rank: [pipelining._Action.from_str(cell) for cell in row] for rank, row in enumerate(apart)}
    played = pipelining._simulate_comms_compute(table, with_messages.placement.rank_of.__getitem__, pp * v)
    assert set(chain.from_iterable(rows(played))) == set(chain.from_iterable(apart))


def test_pytorchs_lowering_sends_the_same_messages(pipelining) -> None:
    """Same SENDs and RECVs as our pass on every rank; only where they stand in a row may differ."""
    for name, pp, m, v in LOADABLE:
        plan = build(name, pp, m, v)
        table = {rank: [pipelining._Action.from_str(cell) for cell in row] for rank, row in enumerate(ours(plan))}
        lowered = pipelining._add_send_recv(table, plan.placement.rank_of.__getitem__, pp * v)
        for mine, row in zip(ours(add_p2p(plan)), rows(lowered), strict=True):
            assert sorted(mine) == sorted(row)


@pytest.mark.parametrize(
    ("name", "pp", "m", "v"), [("interleaved", 4, 8, 4), ("zb-v", 4, 8, 2), ("dualpipe-v", 2, 6, 2)]
)
def test_we_read_what_pytorch_lowered(pipelining, tmp_path, name: str, pp: int, m: int, v: int) -> None:
    """With four stages a rank it gathers and frees them again and again."""
    path = tmp_path / "lowered.csv"
    getattr(pipelining, MULTI[name])(local_stages(pp, v), m)._dump_csv(str(path), format="compute_comms")
    read = parse_csv(path.read_text())
    whole_stage = (Kind.UNSHARD, Kind.RESHARD, Kind.REDUCE_GRAD)
    compute = [[slot for slot in order if slot.first.kind not in whole_stage] for order in compute_only(read).orders]
    assert compute == list(map(list, build(name, pp, m, v).orders))
    assert "0UNSHARD" in path.read_text()


def test_pytorch_cannot_load_dualpipes_two_chains(pipelining, tmp_path) -> None:
    """It knows one chain and m micro-batches on every stage: each of DualPipe's stages plays m / 2."""
    path = tmp_path / "dualpipe.csv"
    path.write_text(write_csv(build("dualpipe", 4, 8)))
    runtime = pipelining._PipelineScheduleRuntime(local_stages(4, 2), 8)
    with pytest.raises(AssertionError, match=r"Got 4 .* microbatches for stage 0, expected 8"):
        runtime._load_csv(str(path))


def test_pytorch_reads_our_cells_as_we_do(pipelining) -> None:
    for cell in ("2F0", "1SEND_B3", "4REDUCE_GRAD", "0UNSHARD", "3I12", "(2F3;5B1)OVERLAP_F_B", "5RECV_F0", "7W9"):
        assert str(pipelining._Action.from_str(cell)) == str(parse_slot(cell)) == cell


def test_the_vee_is_pytorchs(pipelining) -> None:
    from torch.distributed.pipelining._utils import generate_stage_to_rank_mapping

    for pp in range(1, 9):
        theirs = generate_stage_to_rank_mapping(pp, 2 * pp, style="v")
        assert vee(pp).rank_of == tuple(theirs[stage] for stage in range(2 * pp))
        assert all(abs(a - b) <= 1 for a, b in pairwise(vee(pp).rank_of))
