"""Replicas: steps of a data-parallel group with jitter, put together from many plays of one replica.

Playing every replica of a thousand steps costs as many times more as there are replicas. Up to their reductions they
know nothing of each other, so the replicas of a step are drawn from plays of one; the rows from the reductions on, a
few for each stage, are played again for every replica of every step, as `play` with `join` plays them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from parsim.sim.longest_path import play
from parsim.sim.noise import Noise
from parsim.sim.played import Played
from parsim.sim.prices import Floats, Prices, row_delays, row_seconds
from parsim.sim.program import Program

__all__ = ["joined_makespans", "step_samples"]

_PLAYED_CELLS = 2**23  # of a play: rows times lanes
_JOINED_CELLS = 2**22  # rows that are played again, times replicas
_PLAYS_A_STEP = 4  # at the most


def step_samples(
    program: Program, prices: Prices, noise: Noise, samples: int, replicas: int, together: int = 1
) -> Floats:
    """Seconds of so many steps of `replicas` replicas at one price, shape [samples]; `together` as in `Noise`.

    Where there are several replicas, they are drawn from at most four plays for each step: a replica is in several.
    """
    plays = samples * min(replicas, _PLAYS_A_STEP)
    size = max(1, min(plays, _PLAYED_CELLS // program.rows))
    parts = []
    for step, at in enumerate(range(0, plays, size)):
        table = noise.multipliers(program, min(size, plays - at), step, together)
        parts.append(_Tails.of(play(program, prices, table)))
    tails = _Tails.together(parts)
    if replicas == 1:
        return tails.makespans(np.arange(samples)[:, None])
    draw = np.random.default_rng((noise.seed, replicas))
    return tails.makespans(draw.integers(plays, size=(samples, replicas)))


def joined_makespans(played: Played, groups: npt.NDArray[np.intp]) -> Floats:
    """The makespan of each group, shape [G], of the lanes `groups[G, replicas]` of a play at one price, unjoined."""
    return _Tails.of(played).makespans(groups)


@dataclass(frozen=True)
class _Tails:
    """What plays of one program have to be known of: `ends[row]` of the rows before its tail that the tail reads, and
    `stretch[row]` of the tail, shape [lanes] each. `tail`: the reductions, and what they delay, in order.
    """

    program: Program
    prices: Prices
    tail: tuple[int, ...]
    ends: dict[int, Floats]
    stretch: dict[int, Floats]

    @classmethod
    def of(cls, played: Played) -> "_Tails":
        program, multipliers = played.program, played.multipliers
        found = set((program.reductions + 1).tolist())
        for row in range(min(found, default=program.rows + 1), program.rows + 1):
            if program.prev[row - 1] in found or any(needs[row - 1] in found for needs in program.dep):
                found.add(row)
        tail = tuple(sorted(found))
        read = {int(needs[row - 1]) for needs in (program.prev, *program.dep) for row in tail}
        kept = {*read, *program.last.tolist()} - found
        plain = np.ones(played.lanes)
        stretch = {row: plain if multipliers is None else multipliers[row - 1].copy() for row in tail}
        return cls(program, played.prices, tail, {row: played.ends[row].copy() for row in kept}, stretch)

    @classmethod
    def together(cls, parts: "Sequence[_Tails]") -> "_Tails":
        """The lanes of all."""
        first = parts[0]
        ends = {row: np.concatenate([part.ends[row] for part in parts]) for row in first.ends}
        stretch = {row: np.concatenate([part.stretch[row] for part in parts]) for row in first.tail}
        return cls(first.program, first.prices, first.tail, ends, stretch)

    def makespans(self, groups: npt.NDArray[np.intp]) -> Floats:
        """Of each group of lanes, `groups[G, replicas]`."""
        size = max(1, _JOINED_CELLS // (max(len(self.tail), 1) * groups.shape[1]))
        return np.concatenate([self._makespans(groups[at : at + size]) for at in range(0, len(groups), size)])

    def _makespans(self, groups: npt.NDArray[np.intp]) -> Floats:
        program = self.program
        seconds, delays = row_seconds(program, self.prices, 0, None), row_delays(program, self.prices, 0)
        reductions = set((program.reductions + 1).tolist())
        ends: dict[int, Floats] = {}

        def end(row: int) -> Floats:
            if row not in ends:
                ends[row] = self.ends[row][groups]
            return ends[row]

        for row in self.tail:
            at = row - 1
            start = end(int(program.prev[at]))
            for needs, waits in zip(program.dep, delays, strict=True):
                if needs[at]:
                    start = np.maximum(start, end(int(needs[at])) + waits[at])
            if row in reductions:
                start = start.max(axis=1, keepdims=True)
            ends[row] = start + seconds[at] * self.stretch[row][groups]
        found: Floats = np.max([end(row).max(axis=1) for row in program.last.tolist()], axis=0)
        return found
