"""A period more of micro-batches is the same program with its blocks played once more, array for array.

Schedules say after how many micro-batches they repeat (`Schedule.period`); the blocks are found in the arrays. This is
what lets a small program stand for any number of micro-batches.
"""

import numpy as np
import pytest

from parsim.plan import add_gradient_reduction, add_optimizer_step
from parsim.schedules import build, get, names
from parsim.sim import Program, Steady, compile_plan, steady_state

ARRAYS = ("rank", "stream", "prev", "dep", "edge", "duration", "cuts", "last")
STEADY = [name for name in names() if get(name).period(4, 24, get(name).default_stages) is not None]
NOT_STEADY = sorted(set(names()) - set(STEADY))
SIZES = [(1, 12, 1), (2, 10, 2), (3, 15, 3), (4, 24, 1), (4, 27, 2), (5, 30, 2), (8, 48, 3), (16, 96, 2)]


def with_more_periods(steady: Steady, periods: int) -> dict[str, np.ndarray]:
    """The arrays of the program with some periods more in each block, put in at its end."""
    program = steady.program
    rows = np.arange(1, program.rows + 1)
    old, copy = rows, np.zeros(program.rows, int)  # which row each new one is made of, in which of the added periods
    added = np.zeros(program.rows + 1, int)  # rows put in before an old one
    cuts = [program.cuts]
    for cut in reversed(steady.cuts):
        last_period = rows[cut.row - cut.block.period : cut.row]
        old = np.insert(old, cut.row, np.tile(last_period, periods))
        copy = np.insert(copy, cut.row, np.repeat(np.arange(1, periods + 1), cut.block.period))
        added[cut.row + 1 :] += periods * cut.block.period
    inside = [
        program.cuts[(program.cuts >= cut.row - cut.block.period) & (program.cuts < cut.row)] for cut in steady.cuts
    ]
    for cut, starts in zip(steady.cuts, inside, strict=True):
        cuts += [starts + added[cut.row] + number * cut.block.period for number in range(1, periods + 1)]
    cuts[0] = program.cuts + added[np.minimum(program.cuts + 1, program.rows)]

    def moved(sources: np.ndarray, readers: np.ndarray, copies: np.ndarray) -> np.ndarray:
        """Where the rows that are read stand now. A row of a block is another period's for those that read it from
        an added period, and the last period's for those behind the block.
        """
        found = sources + added[sources]
        for cut in steady.cuts:
            later = np.where(readers > cut.row, periods, np.where(readers > cut.row - cut.block.period, copies, 0))
            found += later * cut.block.period * ((sources >= cut.block.first) & (sources <= cut.row))
        return found

    index, end = old - 1, np.full(len(program.last), program.rows + 1)
    return {
        "rank": program.rank[index],
        "stream": program.stream[index],
        "duration": program.duration[index],
        "prev": moved(program.prev[index], old, copy),
        "dep": np.array([moved(dep[index], old, copy) for dep in program.dep]),
        "edge": program.edge[:, index],
        "last": moved(program.last, end, np.zeros_like(end)),
        "cuts": np.unique(np.concatenate(cuts)),
    }


def compiled(name: str, pp: int, m: int, v: int, **options: int) -> Program:
    return compile_plan(add_optimizer_step(add_gradient_reduction(build(name, pp, m, v, **options))))


def check_period(name: str, pp: int, m: int, v: int, **options: int) -> None:
    period = get(name).period(pp, m, v, **options)
    program = compiled(name, pp, m, v, **options)
    steady = steady_state(program)
    assert steady is not None, f"{name} says it repeats after {period} micro-batches"
    assert period % steady.step == 0
    longer = compiled(name, pp, m + period, v, **options)
    expected = with_more_periods(steady, period // steady.step)
    for array in ARRAYS:
        np.testing.assert_array_equal(getattr(longer, array), expected[array], err_msg=f"{name} {pp} {m} {v}: {array}")
    assert longer.boundaries == program.boundaries
    priced = [[[(op.stage, op.kind) for op in slot.ops] for slot in of.priced] for of in (longer, program)]
    assert priced[0] == priced[1]


@pytest.mark.parametrize("name", STEADY)
@pytest.mark.parametrize(("pp", "m", "v"), SIZES)
def test_a_period_more_is_the_blocks_once_more(name: str, pp: int, m: int, v: int) -> None:
    v = v if v in get(name).legal_stages else get(name).default_stages
    if name == "dualpipe":
        pp, m = pp + pp % 2, 6 * (pp + pp % 2)
    elif get(name).period(pp, m, v) is None:
        m = 6 * pp
    check_period(name, pp, m, v)


@pytest.mark.parametrize(("pp", "m", "v", "group"), [(4, 49, 2, 5), (3, 41, 3, 7), (4, 60, 2, 8), (2, 23, 3, 3)])
def test_groups_of_a_given_size_repeat(pp: int, m: int, v: int, group: int) -> None:
    check_period("interleaved", pp, m, v, group_size=group)


@pytest.mark.parametrize("name", NOT_STEADY)
def test_what_is_not_steady_says_so(name: str) -> None:
    assert get(name).period(3, 12, get(name).default_stages) is None
    assert name in ("looped-bfs", "zb-auto")


def test_plans_whose_groups_depend_on_their_micro_batches_do_not_repeat() -> None:
    for name in ("interleaved", "interleaved-zb"):
        assert get(name).period(4, 27, 2) is None
    for v in (1, 2):
        assert steady_state(compiled("looped-bfs", 4, 24, v)) is None
