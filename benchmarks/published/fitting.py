"""Fitting: published timings as samples, how they move with each parameter, and the factors that suit them best.

Minimised is the sum over groups of the mean of |error| (of its square, for errors below 2%), plus a weak pull of every
factor towards 1: what no run tells stays as it is. Errors are logarithms of predicted over measured, which factors move
almost linearly; so one table of derivatives serves many solutions: the fit, its cross-validation, every ablation.
Derivatives are taken only for parameters that a run's price reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from parameters import Parameter, Setting, touches
from predict import layer_pair, pass_seconds, played
from records import Record, facts_of, run_of
from scoring import measured_of

from parsim.cost import RooflineCost
from parsim.cost.constants import Constants
from parsim.errors import ParsimError
from parsim.network.estimate import Correction
from parsim.plan import Kind
from parsim.sim import play, prices
from parsim.sim.period import lasting
from parsim.spec import Run

__all__ = ["NOTHING", "Floats", "Sample", "Without", "derivatives", "errors", "samples_of", "solve", "weights"]

Floats = npt.NDArray[np.float64]

_STEP = 0.03  # of a logarithm, for derivatives
_SMALL = 0.02  # an error below this is as good as none
_PULL = 0.01  # on a factor that is _FAR from 1, in units of a group's mean error
_FAR = 0.15
_FURTHEST = 0.30  # of a logarithm in one solution: derivatives hold about that far
_ROUNDS = 40


@dataclass(frozen=True)
class Without:
    """What is left out of a price that no factor can leave out: a `change` of the run, a `correction` of its
    collectives; `busiest`: all waiting, a step lasts as long as its busiest rank works.
    """

    change: Callable[[Run], Run] | None = None
    correction: Correction | None = None
    busiest: bool = False


NOTHING = Without()


@dataclass(frozen=True)
class Sample:
    """One published timing. `longer` is the run with one layer more: a layer's time is the
    difference, of a `whole` layer with its attention."""

    record: Record
    figure: str
    run: Run
    measured: float
    share: float = 1.0
    longer: Run | None = None
    whole: bool = True

    @property
    def group(self) -> str:
        """What errors are averaged by."""
        return f"{self.record['group']}" if self.longer is None else f"{self.record['group']} (layers)"

    def seconds(self, setting: Setting, constants: Constants | None = None, without: Without = NOTHING) -> float:
        """What is predicted, in the unit of what was measured."""
        constants = setting.constants if constants is None else constants
        if self.longer is None:
            plan, program = played(self.run)
            cost = RooflineCost(self._at(self.run, setting, without), plan.placement, constants, without.correction)
            found = play(program, prices(program, cost))
            seconds = max(found.busy()) if without.busiest else lasting(found, not self.run.software.post_validation)
            return seconds * cost.straggler * self.share
        kind = Kind.F if self.figure == "layer_fwd_ms" else Kind.B
        more, less = (
            pass_seconds(self._at(run, setting, without), kind, constants, self.whole, without.correction)
            for run in (self.longer, self.run)
        )
        return 1e3 * (more - less)

    def _at(self, run: Run, setting: Setting, without: Without) -> Run:
        run = setting.at(run)
        return run if without.change is None else without.change(run)


class _Watched(Constants):
    """Constants that remember which of them were read."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            object.__getattribute__(self, "__dict__").setdefault("_read", set()).add(name)
        return object.__getattribute__(self, name)


def samples_of(records: Iterable[Record]) -> tuple[list[Sample], list[str]]:
    """The core timings that can be priced, and a line for each that cannot."""
    found, refused = list[Sample](), list[str]()
    for record in records:
        times = {n: v for n, v in measured_of(record).items() if n == "step_time_s" or n.startswith("layer_")}
        if not record["core"] or not times:
            continue
        try:
            facts = facts_of(record)
            run = run_of(facts)
            longer = layer_pair(run)[1] if record["kind"] == "layer" else None
            share = facts.step_share if longer is None else 1.0
            whole = facts.whole_layer
            made = [Sample(record, name, run, value, share, longer, whole) for name, value in times.items()]
            for sample in made:
                sample.seconds(Setting({}))
        except ParsimError as error:
            refused.append(f"{record['id']}: {error}")
        else:
            found += made
    return found, refused


def errors(samples: Sequence[Sample], setting: Setting, without: Without = NOTHING) -> Floats:
    """Logarithm of predicted over measured, of every sample."""
    times = (sample.seconds(setting, without=without) / sample.measured for sample in samples)
    found: Floats = np.log(np.fromiter(times, float))
    return found


def derivatives(samples: Sequence[Sample], moved: Sequence[Parameter], setting: Setting) -> Floats:
    """Of every error by the logarithm of every factor, shape [samples, parameters]."""
    table = np.zeros((len(samples), len(moved)))
    for row, sample in enumerate(samples):
        constants = setting.constants
        watched = _Watched(**{name: getattr(constants, name) for name in Constants.__dataclass_fields__})
        vars(watched).pop("_read", None)
        base = sample.seconds(setting, watched)
        read = vars(watched).get("_read", set())
        for column, parameter in enumerate(moved):
            owner, _, name = parameter.name.partition(".")
            if touches(parameter, sample.run.cluster.node.gpu.name) and (owner != "constants" or name in read):
                there = sample.seconds(setting.moved(**{parameter.name: float(np.exp(_STEP))}))
                table[row, column] = np.log(there / base) / _STEP
    return table


def weights(samples: Sequence[Sample]) -> Floats:
    """Every group counts alike, but for those of fewer than four samples."""
    groups = [sample.group for sample in samples]
    return np.array([1.0 / max(groups.count(group), 4) for group in groups])


class Solution(NamedTuple):
    """Logarithms to add to the factors', and the errors that the derivatives then promise."""

    shifts: Floats
    errors: Floats


def solve(base: Floats, table: Floats, weight: Floats, logs: Floats, limits: Floats, pull: float = _PULL) -> Solution:
    """The shifts of all factors that make weighted |errors| smallest, by reweighted least squares.

    `logs` are the factors' logarithms as they are (the pull is on their sum with the shift), `limits` the largest.
    """
    shifts = np.zeros(table.shape[1])
    ridge = np.sqrt(pull) / _FAR * np.eye(table.shape[1])
    for _ in range(_ROUNDS):
        now = base + table @ shifts
        scale = np.sqrt(weight / np.maximum(np.abs(now), _SMALL))
        rows = np.vstack((table * scale[:, None], ridge))
        wanted = np.concatenate((-base * scale, -np.sqrt(pull) / _FAR * logs))
        found = np.linalg.lstsq(rows, wanted, rcond=None)[0]
        found = np.clip(found, -_FURTHEST, _FURTHEST)
        shifts = 0.5 * shifts + 0.5 * np.minimum(found, limits - logs)
    return Solution(shifts, base + table @ shifts)
