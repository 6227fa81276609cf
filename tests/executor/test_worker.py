"""The interpreter plays every schedule, in threads: each op once, in the plan's order, on the right inputs."""

import threading
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from executor.comms import Messages, routes_of
from executor.device import CpuDevice
from executor.job import PLAYED
from executor.worker import HANDLERS, Worker
from parsim.errors import ScheduleError
from parsim.plan import COMPUTE, Kind, Op, Plan, add_p2p, parse_csv
from parsim.schedules import build, names
from tests.executor.orchestra import Desk, Hall, play_together

SHAPE = (1, 2)
SIZES = [(2, 4), (4, 8)]


class Arithmetic:
    """A stage that does sums: what comes out tells which stages it passed, and as which micro-batch."""

    def __init__(self, stage: int, stages: int, log: list[Op]) -> None:
        self.stage, self.stages, self.log = stage, stages, log
        self.weight = 0.0
        self.kept: dict[int, torch.Tensor] = {}

    def forward(self, mb: int, x: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        self.log.append(Op(self.stage, Kind.F, mb))
        made = x * 3 + self.stage
        return made.sum() + target if target is not None else made

    def backward(self, mb: int, grad: torch.Tensor | None) -> torch.Tensor | None:
        made = self.backward_input(mb, grad)
        self.log[-1] = Op(self.stage, Kind.B, mb)
        self.weight += float(self.kept.pop(mb).sum())
        return made

    def backward_input(self, mb: int, grad: torch.Tensor | None) -> torch.Tensor | None:
        self.log.append(Op(self.stage, Kind.I, mb))
        made = torch.full(SHAPE, float(mb + 1), dtype=torch.float64) if grad is None else grad * 2 + self.stage
        self.kept[mb] = made
        return made

    def backward_weight(self, mb: int, done: Any = None) -> None:
        self.log.append(Op(self.stage, Kind.W, mb))
        self.weight += float(self.kept.pop(mb).sum())


class Numbers:
    def tokens(self, stage: int, mb: int) -> torch.Tensor:
        return torch.full(SHAPE, float(mb), dtype=torch.float64)

    def targets(self, stage: int, mb: int) -> torch.Tensor:
        return torch.tensor(float(mb), dtype=torch.float64)


def expected(plan: Plan) -> tuple[float, dict[int, float]]:
    """Sum of the losses and every stage's weight gradient, one micro-batch after the other, without a pipeline."""
    losses, weights = 0.0, dict.fromkeys(range(plan.placement.stages), 0.0)
    for chain in plan.placement.chains:
        for mb in range(plan.microbatches_per_chain):
            x = torch.full(SHAPE, float(mb), dtype=torch.float64)
            for stage in chain:
                x = x * 3 + stage
            losses += float(x.sum()) + mb
            grad = torch.full(SHAPE, float(mb + 1), dtype=torch.float64)
            for stage in reversed(chain):
                if stage != chain[-1]:
                    grad = grad * 2 + stage
                weights[stage] += float(grad.sum())
    return losses, weights


def played(plan: Plan, **options: Any) -> tuple[Hall, list[Worker], dict[int, Arithmetic], list[list[Op]]]:
    logs: list[list[Op]] = [[] for _ in plan.orders]
    stages = plan.placement.stages
    players = {s: Arithmetic(s, stages, logs[plan.placement.rank_of[s]]) for s in range(stages)}

    def of_rank(rank: int) -> Mapping[int, Arithmetic]:
        return {s: players[s] for s in plan.placement.stages_of(rank)}

    hall, workers = play_together(plan, of_rank, lambda step: Numbers(), SHAPE, **options)
    return hall, workers, players, logs


@pytest.mark.parametrize(("pp", "microbatches"), SIZES)
@pytest.mark.parametrize("name", names())
def test_every_schedule_gives_the_numbers_of_one_process(name: str, pp: int, microbatches: int) -> None:
    plan = build(name, pp, microbatches)
    hall, workers, players, logs = played(plan)
    losses, weights = expected(plan)
    assert sum(float(loss) for worker in workers for loss in worker.losses) == pytest.approx(losses)
    assert {stage: player.weight for stage, player in players.items()} == pytest.approx(weights)
    for rank, log in enumerate(logs):
        assert log == [op for slot in plan.orders[rank] for op in slot.ops]
    assert all(sorted(numbers) == numbers for numbers in hall.posted.values()), "a channel keeps its sender's order"


@pytest.mark.parametrize("name", names())
def test_a_send_is_let_go_only_after_it_has_arrived(name: str) -> None:
    """The plan says when; before the end of the step nobody waits for a send that has not been taken."""
    plan = build(name, 4, 8)
    waited: list[int] = []

    class Late(Worker):
        def play(self, feed: Any) -> None:
            finish = self.messages.finish

            def note() -> None:
                waited.append(len(self.messages._transport.hall.early))
                finish()

            self.messages.finish = note  # type: ignore[method-assign]
            super().play(feed)

    hall, *_ = played(plan, worker_of=Late)
    assert waited
    assert waited[0] == 0, f"{name}: waited for {hall.early[:3]}"


@pytest.mark.parametrize("name", names())
def test_most_sends_are_let_go_before_the_step_ends(name: str) -> None:
    plan = add_p2p(build(name, 4, 16))
    for rank in range(4):
        routes = routes_of(plan, rank)
        sends = [op for slot in plan.orders[rank] for op in slot.ops if op.kind in (Kind.SEND_F, Kind.SEND_B)]
        freed = [op for ops in routes.arrived.values() for op in ops]
        assert len(set(freed)) == len(freed)
        assert set(freed) <= set(sends)
        if name not in ("gpipe", "looped-bfs"):  # there all forwards are sent before anything comes back
            assert len(freed) >= len(sends) // 2


def test_steps_follow_each_other() -> None:
    plan = build("1f1b", 4, 4)
    _, workers, players, _ = played(plan, steps=3)
    losses, weights = expected(plan)
    assert sum(float(loss) for worker in workers for loss in worker.losses) == pytest.approx(losses)
    assert players[2].weight == pytest.approx(3 * weights[2])


def test_a_plan_from_a_csv_plays() -> None:
    plan = parse_csv("0F0,0F1,0I0,0I1,0W1,0W0\n1F0,1B0,1F1,1I1,1W1\n")
    _, _, players, logs = played(plan)
    assert {s: p.weight for s, p in players.items()} == pytest.approx(expected(plan)[1])
    assert str(logs[0][-2]) == "0W1"


def test_every_kind_has_a_handler_or_is_refused() -> None:
    assert set(HANDLERS) == PLAYED
    assert set(Kind) >= PLAYED >= COMPUTE


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (torch.zeros(2, 2, dtype=torch.float64), r"\(2, 2\)"),
        (torch.zeros(1, 2, dtype=torch.float32), "float32"),
        (torch.zeros(2, 1, dtype=torch.float64).T.expand(1, 2)[:, ::1], None),
        (torch.zeros(1, 4, dtype=torch.float64)[:, ::2], "not contiguous"),
    ],
)
def test_a_wrong_message_never_reaches_the_backend(tensor: torch.Tensor, what: str | None) -> None:
    plan = add_p2p(build("1f1b", 2, 2))
    hall = Hall()
    messages = Messages(routes_of(plan, 0), Desk(hall, 0), SHAPE, torch.float64, torch.device("cpu"))
    if what is None:
        messages.send(Op(0, Kind.SEND_F, 0), tensor)
        assert hall.channel(0, 1).qsize() == 1
        return
    with pytest.raises(ScheduleError, match=f"0SEND_F0 would carry .*{what}"):
        messages.send(Op(0, Kind.SEND_F, 0), tensor)
    assert hall.channel(0, 1).empty()


def test_notes_say_what_was_played_and_when() -> None:
    plan = build("dualpipe", 4, 8)
    _, workers, _, _ = played(plan)
    for rank, worker in enumerate(workers):
        compute = [note for note in worker.notes if note.slot.first.kind in COMPUTE]
        assert [note.slot for note in compute] == list(plan.orders[rank])
        assert all(note.asked <= note.began <= note.ended for note in compute)
        ends = [note.ended for note in compute]
        assert ends == sorted(ends)


def test_a_rank_says_where_it_is() -> None:
    seen: list[tuple[str, int]] = []

    class Position:
        def enter(self, index: int) -> None:
            seen.append(("enter", index))

        def wait(self, index: int) -> None:
            seen.append(("wait", index))

        def leave(self) -> None:
            seen.append(("leave", -1))

    plan = build("1f1b", 2, 2)
    first = threading.Event()

    def make(full: Plan, rank: int, *rest: Any) -> Worker:
        first.set()
        return Worker(full, rank, *rest, position=Position() if rank == 1 else None)

    played(plan, worker_of=make)
    indices = [index for what, index in seen if what == "enter"]
    assert indices == sorted(indices)
    assert ("wait", next(i for i, s in enumerate(add_p2p(plan).orders[1]) if str(s) == "1F0")) in seen
    assert seen[-1] == ("leave", -1)


def test_the_device_measures_its_own_time() -> None:
    device = CpuDevice()
    marks = [device.mark(), device.mark()]
    assert device.seconds(marks) == marks
    assert device.both((0, 1), lambda: 1, lambda: 2) == (1, 2)
