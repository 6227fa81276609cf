"""Random sound plans, random prices, and a player of the tests' own that uses nothing of parsim.sim."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from parsim.plan import COMPUTE, Kind, Op, Placement, Plan, Slot, check, needs


@dataclass
class RandomCost:
    """A time for each (kind, stage), pair and hop, drawn when first asked: zeros, small whole numbers, any float."""

    seed: int
    least: float = 0.0
    drawn: dict[str, float] = field(default_factory=dict)

    def _draw(self, key: str) -> float:
        if key not in self.drawn:
            chance = random.Random(f"{self.seed} {key}")
            values = (0.0, float(chance.randint(1, 4)), chance.random(), chance.random() * 1e-6, chance.random() * 1e3)
            self.drawn[key] = self.least + chance.choice(values)
        return self.drawn[key]

    def seconds(self, slot: Slot) -> float:
        return self._draw(" ".join(f"{op.stage}{op.kind}" for op in slot.ops))

    def hop_seconds(self, source: int, target: int) -> float:
        return self._draw(f"{source}-{target}")


def random_plan(seed: int) -> Plan:
    """A sound plan: a random placement of one or two chains, played by a list scheduler that picks at random."""
    chance = random.Random(seed)
    parts, chains, mbs = chance.randint(1, 5), chance.randint(1, 2), chance.randint(1, 4)
    stages = parts * chains
    ranks = chance.randint(1, stages)
    rank_of = [*range(ranks), *(chance.randrange(ranks) for _ in range(stages - ranks))]
    chance.shuffle(rank_of)
    placement = Placement(
        tuple(tuple(range(c * parts, (c + 1) * parts)) for c in range(chains)),
        tuple(rank_of),
        tuple(s % parts for s in range(stages)),
    )
    halves = chance.choice((0.0, 0.5, 1.0))
    waiting: set[Op] = set()
    for stage in range(stages):
        for mb in range(mbs):
            backward = (Kind.I, Kind.W) if chance.random() < halves else (Kind.B,)
            waiting.update(Op(stage, kind, mb) for kind in (Kind.F, *backward))
    present, overlap = frozenset(waiting), chance.random()
    orders: list[list[Slot]] = [[] for _ in range(ranks)]
    while waiting:
        ready = sorted(op for op in waiting if not waiting.intersection(needs(op, placement, present, mbs)))
        first = chance.choice(ready)
        slot = Slot(first)
        if first.kind is Kind.F and chance.random() < overlap:
            rank = rank_of[first.stage]
            others = [op for op in ready if op.kind in (Kind.B, Kind.I) and rank_of[op.stage] == rank]
            slot = Slot(first, chance.choice(others)) if others else slot
        orders[rank_of[first.stage]].append(slot)
        waiting.difference_update(slot.ops)
    plan = Plan(f"random-{seed}", placement, mbs * chains, tuple(map(tuple, orders)))
    check(plan)
    return plan


def oracle(plan: Plan, cost: RandomCost, rendezvous: bool = False) -> dict[Slot, float] | None:
    """End of every slot, by trying again and again whoever can go on; None if nobody can before the end."""
    placement, ends = plan.placement, dict[Slot, float]()
    slot_of = {op: slot for order in plan.orders for slot in order for op in slot.ops}
    lines = [[slot for slot in order if slot.first.kind is not Kind.REDUCE_GRAD] for order in plan.orders]
    lines += [[slot for slot in order if slot.first.kind is Kind.REDUCE_GRAD] for order in plan.orders]
    before = {slot: line[i - 1] if i else None for line in lines for i, slot in enumerate(line)}

    def backward(stage: int, mb: int | None) -> Op:
        return next(op for kind in (Kind.I, Kind.B) if (op := Op(stage, kind, mb)) in slot_of)

    def message(op: Op) -> tuple[int, int, Op, Op] | None:
        """(from stage, to stage, producer, consumer) of the message that op consumes."""
        stage, kind, mb = op
        chain = next(chain for chain in placement.chains if stage in chain)
        at = chain.index(stage)
        if kind is Kind.F and at > 0:
            return chain[at - 1], stage, Op(chain[at - 1], Kind.F, mb), op
        if kind in (Kind.B, Kind.I) and at + 1 < len(chain):
            return chain[at + 1], stage, backward(chain[at + 1], mb), op
        return None

    messages = [found for op in slot_of if (found := message(op))]
    messages = [m for m in messages if placement.rank_of[m[0]] != placement.rank_of[m[1]]]

    def arrival(sent: tuple[int, int, Op, Op]) -> float:
        """When a message is there; KeyError while that is not known."""
        start = ends[slot_of[sent[2]]]
        reached = before[slot_of[sent[3]]]
        if rendezvous and reached is not None:
            start = max(start, ends[reached])
        return start + cost.hop_seconds(sent[0], sent[1])

    def ready(slot: Slot) -> float:
        times = [0.0]
        last = before[slot]
        if last is not None:
            times.append(ends[last])
        if last is not None and rendezvous:
            times += [arrival(sent) for sent in messages if sent[2] in last.ops]
        for op in slot.ops:
            times += [arrival(sent) for sent in messages if sent[3] == op]
            if op.kind in COMPUTE and (heard := message(op)):
                times.append(ends[slot_of[heard[2]]])
            if op.kind is Kind.W:
                times.append(ends[slot_of[Op(op.stage, Kind.I, op.mb)]])
            if op.kind is Kind.REDUCE_GRAD:
                twins = [s for s, part in enumerate(placement.part_of) if part == placement.part_of[op.stage]]
                done = [o for o in slot_of if o.stage in twins and o.kind in (Kind.B, Kind.W)]
                times += [ends[slot_of[o]] for o in done]
            if op.kind is Kind.STEP:
                times.append(ends[slot_of[Op(op.stage, Kind.REDUCE_GRAD)]])
        return max(times)

    progress = True
    while progress:
        progress = False
        for line in lines:
            for slot in line:
                if slot not in ends:
                    try:
                        ends[slot] = ready(slot) + cost.seconds(slot)
                    except KeyError:
                        break
                    progress = True
    return ends if len(ends) == sum(map(len, lines)) else None


@pytest.fixture(scope="session")
def make_plan() -> Callable[[int], Plan]:
    return random_plan


@pytest.fixture(scope="session")
def make_cost() -> type[RandomCost]:
    return RandomCost


@pytest.fixture(scope="session")
def play_by_dict() -> Callable[..., dict[Slot, float] | None]:
    return oracle
