"""Replay: with the times of a prediction it is the prediction, whichever the plan; ugly times are refused."""

import pytest

from parsim.cost import parse_times
from parsim.errors import ScheduleError
from parsim.plan import Kind, Op, add_gradient_reduction, add_optimizer_step
from parsim.schedules import build, names
from parsim.sim import compile_plan, play, prices, recording, replay


@pytest.mark.parametrize("name", names())
def test_the_ops_of_a_prediction_play_the_prediction(name: str) -> None:
    cost = parse_times("F=1,I=1.5,W=0.75,P2P=0.25,FB=2")
    plan = add_optimizer_step(add_gradient_reduction(build(name, 4, 16)))
    program = compile_plan(plan)
    played = play(program, prices(program, cost))
    spans = recording(program, played).spans
    again = replay(plan, {span.op: span.end_s - span.start_s for span in spans}, 0.25)
    assert again.makespan == pytest.approx(played.makespan, rel=1e-12)
    assert [span.op for span in recording(again.program, again).spans] == [span.op for span in spans]


def test_each_op_has_its_own_time() -> None:
    plan = build("1f1b", 2, 2)
    seconds = {Op(s, k, mb): 1.0 for s in (0, 1) for k in (Kind.F, Kind.B) for mb in (0, 1)}
    assert replay(plan, seconds).makespan == 6.0
    seconds[Op(1, Kind.B, 0)] = 3.0  # on the critical path
    assert replay(plan, seconds).makespan == 8.0
    seconds[Op(0, Kind.F, 1)] = 2.0  # hidden behind it
    assert replay(plan, seconds).makespan == 8.0
    assert replay(plan, seconds, hop_s=0.5).makespan == 9.0


def test_ugly_times_are_refused() -> None:
    plan = build("1f1b", 2, 2)
    seconds = {Op(s, k, mb): 1.0 for s in (0, 1) for k in (Kind.F, Kind.B) for mb in (0, 1)}
    with pytest.raises(ScheduleError, match="plays 1B1, for which no time is given"):
        replay(plan, {op: time for op, time in seconds.items() if op != Op(1, Kind.B, 1)})
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ScheduleError, match="0F0 takes"):
            replay(plan, {**seconds, Op(0, Kind.F, 0): wrong})
        with pytest.raises(ScheduleError, match="a hop takes"):
            replay(plan, seconds, wrong)
