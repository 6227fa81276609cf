"""Score: predicted against published nccl-tests tables, in percent of the measured time, by size band and fabric.

    python benchmarks/collectives/score.py [--data FILE] [--json FILE|-] [--leave-one-cluster-out | --own-log]

- plain: the bundled curves, rules derived from the topology, NCCL's choice (a setting that the source states is an
  input). Says how many of the tables the curves were fitted to.
- --leave-one-cluster-out: the curves fitted again, to the given tables and the project's own, without the cluster that
  is scored.
- --own-log: each table calibrated on every second of its sizes and scored on the others.

Tables that their publisher reports as a problem are listed but not scored. All-to-all is scored apart, from 64 MiB on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fit import fit_all, samples_of
from tables import DATA, Table, read_tables

from parsim.errors import ParsimError
from parsim.network.calibration import Calibration, Measurement
from parsim.network.estimate import estimate
from parsim.spec.fabric_times import FabricTimes

MIB = 2**20
BANDS = {"<1MiB": (0, MIB), "1-64MiB": (MIB, 64 * MIB), ">=64MiB": (64 * MIB, 2**62)}


class Error(NamedTuple):
    """One row: where it stands, and predicted over measured time, less one."""

    table: Table
    size_bytes: int
    value: float


def plain(tables: Sequence[Table], times: Mapping[str, FabricTimes] | None = None) -> Iterator[Error]:
    """Every row by the bundled curves, or by the given ones."""
    for table in tables:
        own = None if times is None else times[table.reach.kind]
        for row in table.rows:
            seconds = _seconds(table, row.size_bytes, own)
            yield Error(table, row.size_bytes, seconds / row.seconds - 1)


def left_out(tables: Sequence[Table]) -> Iterator[Error]:
    """Every cluster by curves that were fitted without it: to the other clusters given, and to the project's tables.

    Of these a cluster is left out too that shares its name or as much as one measured row.
    """
    bundled = read_tables(DATA)
    for cluster in sorted({table.cluster for table in tables}):
        scored = [table for table in tables if table.cluster == cluster]
        rows = {row for table in scored for row in _measured(table)}
        same = {cluster} | {table.cluster for table in bundled if not rows.isdisjoint(_measured(table))}
        given = [table for table in tables if table.cluster not in same]
        known = {row for table in given for row in _measured(table)}
        rest = [t for t in bundled if t.cluster not in same and known.isdisjoint(_measured(t))]
        yield from plain(scored, fit_all(samples_of([*given, *rest])))


def _measured(table: Table) -> Iterator[tuple[str, int, int, float]]:
    return ((table.kind, table.reach.ranks, row.size_bytes, row.seconds) for row in table.rows)


def own_log(tables: Sequence[Table]) -> Iterator[Error]:
    """Every second size of each table by a calibration on the others."""
    for table in tables:
        known = [
            Measurement(table.kind, row.size_bytes, row.seconds, table.reach.ranks, table.reach.domains)
            for row in table.rows[::2]
        ]
        calibration = Calibration.of(known, table.reach, algorithm=table.algorithm, protocol=table.protocol)
        for row in table.rows[1::2]:
            seconds = _seconds(table, row.size_bytes, None, calibration)
            yield Error(table, row.size_bytes, seconds / row.seconds - 1)


def _seconds(table: Table, size: int, times: FabricTimes | None, calibration: Calibration | None = None) -> float:
    return estimate(
        table.kind,
        size,
        table.reach,
        algorithm=table.algorithm,
        protocol=table.protocol,
        correction=calibration,
        times=times,
    ).seconds


def summary(errors: Iterable[Error]) -> dict[str, Any]:
    """Bands over all tables but all-to-all, bands by class, and all-to-all of 64 MiB and more by class."""
    bands: dict[str, list[float]] = {name: [] for name in BANDS}
    classes: dict[str, dict[str, list[float]]] = defaultdict(lambda: {name: [] for name in BANDS})
    exchanged: dict[str, list[float]] = {"nvlink": [], "ib": []}
    for error in errors:
        if error.table.troubled:
            continue
        band = next(name for name, (low, high) in BANDS.items() if low <= error.size_bytes < high)
        if error.table.kind == "all_to_all":
            if band == ">=64MiB":
                exchanged.setdefault(error.table.reach.kind.rstrip("2345"), []).append(abs(error.value))
            continue
        bands[band].append(abs(error.value))
        classes[error.table.reach.kind][band].append(abs(error.value))
    return {
        "bands": {name: _figures(values) for name, values in bands.items()},
        "alltoall": {name: _figures(values) for name, values in exchanged.items()},
        "classes": {name: {b: _figures(v) for b, v in found.items()} for name, found in sorted(classes.items())},
    }


def _figures(values: Sequence[float]) -> dict[str, float | int | None]:
    if not values:
        return {"n": 0, "mean": None, "median": None, "p90": None}
    percent = 100 * np.array(values)
    found = {"mean": percent.mean(), "median": np.median(percent), "p90": np.quantile(percent, 0.9)}
    return {"n": len(values), **{name: round(float(value), 2) for name, value in found.items()}}


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'':22}{'rows':>6}{'mean':>8}{'median':>8}{'p90':>8}   % of the measured time"
    rows = {**found["bands"], **{f"alltoall {name}": value for name, value in found["alltoall"].items()}}
    rows |= {f"{name} {band}": value for name, by in found["classes"].items() for band, value in by.items()}
    for name, value in rows.items():
        if value["n"]:
            yield f"{name:22}{value['n']:6}{value['mean']:8.1f}{value['median']:8.1f}{value['p90']:8.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="tables in the format of nccl_tests.yaml")
    parser.add_argument("--json", help="file for the figures, - for standard output")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--leave-one-cluster-out", action="store_true")
    how.add_argument("--own-log", action="store_true")
    parser.add_argument("--worst", type=int, default=0, help="also list the tables with the largest errors")
    arguments = parser.parse_args()
    try:
        tables = read_tables(arguments.data)
        method = left_out if arguments.leave_one_cluster_out else own_log if arguments.own_log else plain
        errors = list(method(tables))
    except ParsimError as error:
        sys.exit(f"error: {error}")
    found = summary(errors)
    if arguments.json:
        text = json.dumps(found, indent=1) + "\n"
        if arguments.json == "-":
            sys.stdout.write(text)
            return
        Path(arguments.json).write_text(text)
    print("\n".join(_lines(found)))
    by_table: dict[str, list[float]] = defaultdict(list)
    for error in errors:
        by_table[f"{error.table.name} ({error.table.reach.kind})"].append(error.value)
    worst = sorted(by_table, key=lambda name: -float(np.mean(np.abs(by_table[name]))))
    for name in worst[: arguments.worst]:
        values = np.array(by_table[name])
        print(f"{100 * np.mean(np.abs(values)):6.0f} % (bias {100 * values.mean():+.0f} %)  {name}")


if __name__ == "__main__":
    main()
