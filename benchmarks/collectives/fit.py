"""Fit: the curves of every class of links (topologies/fabrics) from published nccl-tests tables.

    python benchmarks/collectives/fit.py [--data FILE] [--write]

A table's row is a sum of amounts (parsim.network.parts) times unknown times, so the fit is linear. It makes the
sum of |relative error|^1.5 least (least squares, weighted anew a few times: one misconfigured cluster does not move the
rest), no time below a twentieth of its prior, each held to its prior by a ridge. The priors are NCCL's own
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
    """The times that the samples give; what they do not touch keeps its prior."""
    names = sorted({name for sample in samples for name in sample.amounts}, key=str)
    place = {name: index for index, name in enumerate(names)}
    amounts = np.zeros((len(samples), len(names)))
    for row, sample in enumerate(samples):
        for name, value in sample.amounts.items():
            amounts[row, place[name]] = value
    start = np.array([prior[name] for name in names])
    ridge = np.array([RIDGE.get(name[0], _RIDGE) for name in names])
    counts = Counter(sample.cluster for sample in samples)
    weights = np.array([counts[sample.cluster] ** -0.5 for sample in samples])
    weights /= weights.mean()
    measured = np.array([sample.seconds for sample in samples])
    relative, found, weight = amounts / measured[:, None], start, weights
    for _ in range(_ROUNDS):
        found = _ridge(relative, np.ones(len(samples)), start, ridge, weight)
        weight = weights * np.sqrt(_USUAL / np.maximum(np.abs(relative @ found - 1), _SMALL))
    return prior | dict(zip(names, found.tolist(), strict=True))


def _ridge(matrix: Floats, target: Floats, start: Floats, ridge: Floats, weights: Floats) -> Floats:
    """min sum w (A x - y)^2 + sum ridge (x/start - 1)^2 with x >= start/20, coordinate by coordinate."""
    scaled = matrix * start
    quadratic = (scaled * weights[:, None]).T @ scaled + np.diag(ridge)
    linear = (scaled * weights[:, None]).T @ target + ridge
    x = np.ones(len(start))
    for _ in range(500):
        before = x.copy()
        for j in range(len(x)):
            x[j] = max(_LEAST, x[j] + (linear[j] - quadratic[j] @ x) / quadratic[j, j])
        if np.abs(x - before).max() < 1e-7:
            break
    result: Floats = x * start
    return result


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
        times = fitted(own, priors()) if own else common["inside" if name in INSIDE else "across"]
        if own:  # what its own tables do not touch: from the other classes
            touched = {key for s in own for key in s.amounts}
            rest = common["inside" if name in INSIDE else "across"]
            times = {key: times[key] if key in touched else rest[key] for key in times}
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
