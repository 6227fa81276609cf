"""Fit: the curves of every class of links (topologies/fabrics) from published nccl-tests tables.

    python benchmarks/collectives/fit.py [--data FILE] [--write]

A table's row is a sum of amounts (parsim.network.parts) times unknown times, so the fit is linear. It makes the
sum of |relative error|^1.5 least (least squares, weighted anew a few times: one misconfigured cluster does not move the
rest). A curve never falls with size, no time is below a twentieth of its prior, and each is held to its prior by a
ridge. The priors are NCCL's own
constants where it has one, else round numbers; a class without tables keeps what all classes together give. A cluster
counts by the root of its rows, so that one that published a thousand does not drown the others.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import yaml
from tables import DATA, Row, Table, read_tables

from parsim.network.estimate import parts_of
from parsim.network.parts import Parts
from parsim.spec.fabric_times import FabricTimes
from parsim.spec.nccl import load_nccl
from parsim.spec.problem import validated

FABRICS = Path(__file__).parents[2] / "topologies" / "fabrics"
HEAD = "# Written by benchmarks/collectives/fit.py from published nccl-tests results; see parsim/network/parts.py.\n"
INSIDE = ("nvlink2", "nvlink3", "nvlink4", "nvlink5", "xgmi", "pcie")
CLASSES = (*INSIDE, "ib", "roce", "efa", "slingshot", "tcpx", "tcp")
NO_LL128 = frozenset({"efa", "slingshot", "tcpx", "tcp", "pcie"})

# Knots in log2 bytes, and priors in us, of each curve.
PRIORS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "base": ((0,), (1.0,)),  # times NCCL's own
    "ring_step": ((4, 8, 10, 11, 12, 13, 14, 16, 18, 20, 22, 24, 27), (2, 2, 2, 2, 2, 2, 2.5, 3, 3.4, 5, 6, 8, 10)),
    "ring_across": ((10, 16), (1, 1)),
    "tree_inside": ((0,), (0.7,)),
    "tree_level": ((3, 10, 13, 15, 17, 18, 20, 22, 24, 27, 30), (9, 10, 10, 11, 12, 13, 15, 18, 22, 30, 40)),
    "nvls": ((16, 18, 20, 22, 24, 26, 28, 30, 33), (20, 20, 25, 28, 40, 60, 80, 90, 90)),
    "nvls_level": ((18, 20, 22, 24, 26, 28, 30, 33), (15, 20, 20, 22, 25, 30, 40, 40)),
    "peer": ((4, 8, 12, 14, 16, 18, 20, 22, 24, 26, 28), (2, 2, 2, 2.5, 3, 4, 5, 6, 8, 12, 15)),
    "message": ((8, 16, 20, 24), (6, 8, 12, 20)),
}
WAYS = {
    "ring": 1.0,
    "pair": 1.2,
    "tree": 1.0,
    "nvls": 1.0,
    "nvls_tree": 1.0,
    "collnet": 1.0,
    "pairwise": 1.15,
    "send": 1.15,
}
# How firmly a time is held to its prior, against one row of weight 1.
RIDGE = {"base": 0.5, "tree_inside": 2.0, "ring_across": 0.3, "per_byte": 0.5}
_RIDGE, _LEAST = 0.01, 0.05
_ROUNDS, _USUAL, _SMALL = 5, 0.2, 0.04  # weights are (usual / error)^0.5, errors below the smallest count alike

Floats = npt.NDArray[np.float64]
Name = tuple[str, int | str]
Times = dict[Name, float]


class Sample(NamedTuple):
    """One measured row, and what its time is made of."""

    cluster: str
    fabric: str
    seconds: float
    amounts: Mapping[Name, float]


def samples_of(tables: Iterable[Table]) -> list[Sample]:
    """All rows of the tables that are not reported as a problem."""
    constants = load_nccl()
    return [
        Sample(table.cluster, table.reach.kind, row.seconds, _amounts(_parts(table, row, constants)))
        for table in tables
        for row in table.rows
        if not table.troubled
    ]


def _parts(table: Table, row: Row, constants: Any) -> Parts:
    ll128 = table.reach.kind not in NO_LL128
    return parts_of(
        table.kind, row.size_bytes, table.reach, constants, ll128, algorithm=table.algorithm, protocol=table.protocol
    )[0]


def _amounts(parts: Parts) -> dict[Name, float]:
    found: dict[Name, float] = {}
    for part in parts.latency:
        for index, share in _weights(part.log2_bytes, PRIORS[part.curve][0]):
            found[part.curve, index] = found.get((part.curve, index), 0.0) + part.amount * share * 1e-6
    found["per_byte", parts.way] = parts.bytes_s
    return found


def _weights(at: float, knots: Sequence[float]) -> list[tuple[int, float]]:
    right = int(np.searchsorted(knots, at))
    if right == 0:
        return [(0, 1.0)]
    if right == len(knots):
        return [(right - 1, 1.0)]
    share = (at - knots[right - 1]) / (knots[right] - knots[right - 1])
    return [(right - 1, 1.0 - share), (right, share)]


def priors() -> Times:
    """Every time before anything was fitted."""
    found: Times = {(curve, i): us for curve, (_, values) in PRIORS.items() for i, us in enumerate(values)}
    return found | {("per_byte", way): value for way, value in WAYS.items()}


def fitted(samples: Sequence[Sample], prior: Times) -> Times:
    """The times that the samples give; what they do not touch stays near its prior."""
    names = list(prior)
    place = {name: index for index, name in enumerate(names)}
    amounts = np.zeros((len(samples), len(names)))
    for row, sample in enumerate(samples):
        for name, value in sample.amounts.items():
            amounts[row, place[name]] = value / sample.seconds
    counts = Counter(sample.cluster for sample in samples)
    weights = np.array([counts[sample.cluster] ** -0.5 for sample in samples])
    weights /= weights.mean()
    start = np.array([prior[name] for name in names])
    ridge = np.array([RIDGE.get(name[0], _RIDGE) for name in names])
    steps, least = _steps(names), _LEAST * start * [not _follows(name) for name in names]
    weight = weights
    for _ in range(_ROUNDS):
        weighted = amounts.T * weight
        quadratic = steps.T @ (weighted @ amounts + np.diag(ridge / start**2)) @ steps
        linear = steps.T @ (weighted.sum(axis=1) + ridge / start)
        found = steps @ (least + _least_squares(quadratic, linear - quadratic @ least))
        weight = weights * np.sqrt(_USUAL / np.maximum(np.abs(amounts @ found - 1), _SMALL))
    return dict(zip(names, found.tolist(), strict=True))


def _follows(name: Name) -> bool:
    """Whether a time is a later knot of its curve: what is fitted there is the rise from the knot before."""
    return isinstance(name[1], int) and name[1] > 0


def _steps(names: Sequence[Name]) -> Floats:
    """From rises to times: a knot's time is the sum of its own and all earlier rises of its curve."""
    return np.array(
        [
            [one == other or (_follows(one) and one[0] == other[0] and int(other[1]) < int(one[1])) for other in names]
            for one in names
        ],
        float,
    )


def _least_squares(quadratic: Floats, linear: Floats) -> Floats:
    """min x Q x / 2 - b x with x >= 0, by active sets (Lawson and Hanson, Solving Least Squares Problems, 23.10)."""
    size = len(linear)
    x, free = np.zeros(size), np.zeros(size, bool)
    tolerance = 1e-10 * float(np.abs(linear).max())
    for _ in range(5 * size):
        slope = linear - quadratic @ x
        if free.all() or slope[~free].max() <= tolerance:
            break
        free[np.flatnonzero(~free)[int(np.argmax(slope[~free]))]] = True
        while True:
            wanted = np.zeros(size)
            wanted[free] = np.linalg.solve(quadratic[np.ix_(free, free)], linear[free])
            if wanted[free].min() > 0:
                break
            below = free & (wanted <= 0)
            reach = float((x[below] / (x[below] - wanted[below])).min())
            x = x + reach * (wanted - x)
            free &= x > 1e-15 * float(np.abs(x).max())
        x = wanted
    return x


def fit_all(samples: Sequence[Sample]) -> dict[str, FabricTimes]:
    """The times of every class: its own tables, starting from what all classes across (or inside) domains give."""
    inside = [s for s in samples if s.fabric in INSIDE]
    across = [s for s in samples if s.fabric not in INSIDE]
    common = {"inside": fitted(inside, priors()) if inside else priors(), "across": priors()}
    if across:
        common["across"] = fitted(across, priors())
    found = {}
    for name in CLASSES:
        own = [s for s in samples if s.fabric == name]
        clusters = sorted({s.cluster for s in own})
        rest = common["inside" if name in INSIDE else "across"]
        touched = {key for s in own for key in s.amounts}
        nominal = priors()
        prior = {key: nominal[key] if key in touched else value for key, value in rest.items()}
        times = fitted(own, prior) if own else rest
        found[name] = validated(FabricTimes, document(name, times, len(own), len(clusters)), name)
    return found


def document(name: str, times: Times, rows: int, clusters: int) -> dict[str, Any]:
    """A class's file as plain values."""
    curves = {
        curve: {"log2_bytes": list(knots), "us": [float(f"{times[curve, i]:.4g}") for i in range(len(knots))]}
        for curve, (knots, _) in PRIORS.items()
    }
    source = f"least errors over {rows} rows of {clusters} clusters in benchmarks/collectives/nccl_tests.yaml"
    grade = "fitted" if rows else "assumed"
    return {
        "name": name,
        "ll128": name not in NO_LL128,
        "curves": curves,
        "per_byte": {way: float(f"{times['per_byte', way]:.4g}") for way in WAYS},
        "evidence": {"all": {"grade": grade, "source": source if rows else "no tables of this class: all others"}},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--write", action="store_true", help="write topologies/fabrics/*.yaml")
    arguments = parser.parse_args()
    found = fit_all(samples_of(read_tables(arguments.data)))
    for name, times in found.items():
        text = yaml.safe_dump(times.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=118)
        if arguments.write:
            (FABRICS / f"{name}.yaml").write_text(HEAD + text)
        else:
            print(text)


if __name__ == "__main__":
    main()
