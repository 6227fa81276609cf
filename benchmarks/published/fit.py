"""Fit: the roofline's constants and the GPUs' efficiencies, to the core step times and layers of a file.

    python benchmarks/published/fit.py [--data FILE] [--rounds N] [--terms] [--json FILE] [--write]

Prints the error before and after, cross-validated by cluster (a cluster is never split), how every parameter moved,
and with `--terms` what each main term is worth: left out, the rest refitted. A round takes some minutes on one core,
most of them for derivatives; the terms a few more. Nothing is written without `--write`.

The start is the numbers in the tree, which runs of the file have shaped before: what is cross-validated is the refit,
not the whole history of the numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fitting import Floats, Sample, derivatives, errors, samples_of, solve, weights
from parameters import Parameter, Setting, parameters
from records import DATA, read_records
from terms import TERMS
from writing import changed_files

from parsim.errors import ParsimError
from parsim.files import parse_json_text, read_text, write_all

__all__ = ["cross_validated", "fitted", "report_of", "worth_of_terms"]

_FOLDS = 8
_KINDS = ("dense", "moe", "dense layers", "moe layers")


def fitted(
    samples: Sequence[Sample], known: Sequence[Parameter], start: Setting, rounds: int, say: bool
) -> tuple[Setting, Floats]:
    """The setting after some rounds, and the derivatives at the start of the first one.

    A round that makes things worse is taken back: derivatives hold only so far.
    """
    setting, weight, limits = start, weights(samples), _limits(known, start)
    base, first = errors(samples, setting), None
    for number in range(rounds):
        started = time.perf_counter()
        table = derivatives(samples, known, setting)
        first = table if first is None else first
        logs = np.log([setting.factors[p.name] / start.factors[p.name] for p in known])
        shifts, promised = solve(base, table, weight, logs, limits)
        for share in (1.0, 0.5, 0.25):
            there = setting.moved(**_factors(known, share * shifts))
            found = errors(samples, there)
            if macro(samples, found) < macro(samples, base):
                break
        else:
            break
        if say:
            print(
                f"round {number + 1}: {macro(samples, base):.2f} % to {macro(samples, found):.2f} % (promised "
                f"{macro(samples, promised):.2f}), {time.perf_counter() - started:.0f} s",
                file=sys.stderr,
            )
        setting, base = there, found
    assert first is not None  # at least one round
    return setting, first


def cross_validated(
    samples: Sequence[Sample], base: Floats, table: Floats, known: Sequence[Parameter], start: Setting
) -> Floats:
    """Errors of every sample by a fit without its cluster; clusters are dealt to eight folds in turn."""
    clusters = sorted({sample.record["cluster"] for sample in samples})
    fold = np.array([clusters.index(sample.record["cluster"]) % _FOLDS for sample in samples])
    limits, weight = _limits(known, start), weights(samples)
    found = np.empty(len(samples))
    for number in range(_FOLDS):
        rest, held = fold != number, np.flatnonzero(fold == number).tolist()
        shifts, _ = solve(base[rest], table[rest], weight[rest], np.zeros(len(known)), limits)
        there = start.moved(**_factors(known, shifts))
        found[held] = errors([samples[index] for index in held], there)
    return found


def worth_of_terms(
    samples: Sequence[Sample], table: Floats, known: Sequence[Parameter], start: Setting
) -> dict[str, dict[str, dict[str, float]]]:
    """By term, errors without it, as they are and with the rest refitted."""
    weight, found = weights(samples), dict[str, dict[str, dict[str, float]]]()
    for name, term in TERMS.items():
        without = term.setting(start, known)
        base = errors(samples, without, term.without)
        # What moves together: every parameter that may make up for the term alone, those made alike as one.
        together = [[index] for index in term.refitted(known)] + ([alike] if (alike := term.places(known)) else [])
        moves = np.column_stack([table[:, places].sum(axis=1) for places in together])
        most = [np.log(p.most / max(without.factors.get(p.name, 1.0), 1e-9)) for p in known]
        limits = np.array([min(most[index] for index in places) for places in together])
        shifts, _ = solve(base, moves, weight, np.zeros(len(together)), limits)
        logs = np.zeros(len(known))
        for places, shift in zip(together, shifts, strict=True):
            logs[places] = shift
        again = errors(samples, without.moved(**_factors(known, logs)), term.without)
        # Derivatives of the whole model may mislead where a large term is gone: then nothing is refitted.
        again = again if macro(samples, again) < macro(samples, base) else base
        found[name] = {"left out": report_of(samples, base), "refitted": report_of(samples, again)}
    return found


def macro(samples: Sequence[Sample], found: Floats) -> float:
    """Percent: mean over groups of the mean |error|."""
    sizes, groups = 100 * np.abs(np.expm1(found)), np.array([sample.group for sample in samples])
    return float(np.mean([sizes[groups == group].mean() for group in sorted(set(groups))])) if len(samples) else 0.0


def report_of(samples: Sequence[Sample], found: Floats) -> dict[str, float]:
    """Percent by kind of sample, and over all groups."""
    kinds = np.array([_kind(sample) for sample in samples])
    chosen = {kind: np.flatnonzero(kinds == kind).tolist() for kind in _KINDS}
    parts = {kind: macro([samples[i] for i in index], found[index]) for kind, index in chosen.items() if index}
    return {name: round(value, 2) for name, value in {"all": macro(samples, found), **parts}.items()}


def _limits(known: Sequence[Parameter], start: Setting) -> Floats:
    """How far each factor may rise above the start."""
    return np.array([np.log(p.most / start.factors[p.name]) for p in known])


def _kind(sample: Sample) -> str:
    kind = "dense" if sample.record["model"].get("moe") is None else "moe"
    return kind if sample.longer is None else f"{kind} layers"


def _factors(known: Sequence[Parameter], logs: Floats) -> dict[str, float]:
    return {p.name: float(np.exp(log)) for p, log in zip(known, logs, strict=True)}


def _row(name: str, row: Mapping[str, float]) -> str:
    return f"  {name:42}" + "".join(f"{row.get(kind, float('nan')):14.2f}" for kind in ("all", *_KINDS))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="records in the format of published.yaml")
    parser.add_argument("--start", type=Path, help="a fit's JSON: start from its numbers before, not from the tree's")
    parser.add_argument("--rounds", type=int, default=1, help="how often derivatives are taken anew")
    parser.add_argument("--terms", action="store_true", help="also leave out each main term")
    parser.add_argument("--json", type=Path, help="file for all figures and the fitted numbers")
    parser.add_argument("--write", action="store_true", help="write the numbers into constants.py and topologies/")
    arguments = parser.parse_args()
    try:
        records = read_records(arguments.data)
        samples, refused = samples_of(records)
        if not samples:
            sys.exit("error: no record that the model can price")
        known = parameters({sample.run.cluster.node.gpu.name for sample in samples})
        print(f"{len(samples)} timings, {len(refused)} records not priced, {len(known)} parameters", file=sys.stderr)
        found = _figures(samples, known, arguments)
        if arguments.json:
            write_all({arguments.json: json.dumps(found, indent=1) + "\n"})
        if arguments.write:
            write_all(changed_files(known, found["factors"]))
    except ParsimError as error:
        sys.exit(f"error: {error}")


def _start(known: Sequence[Parameter], path: Path | None) -> Setting:
    """The numbers in the tree, or those that another fit started from where it had them."""
    values: dict[str, Any] = {}
    if path is not None:
        document = parse_json_text(read_text(path, "fit"))
        values = document.get("parameters", {}) if isinstance(document, dict) else {}
    return Setting({p.name: values[p.name][0] / p.value if p.name in values else 1.0 for p in known})


def _figures(samples: Sequence[Sample], known: Sequence[Parameter], arguments: argparse.Namespace) -> dict[str, Any]:
    """Fits, prints, and returns what was printed."""
    start = _start(known, arguments.start)
    setting, table = fitted(samples, known, start, max(arguments.rounds, 1), say=True)
    before, after = errors(samples, start), errors(samples, setting)
    held_out = cross_validated(samples, before, table, known, start)
    found: dict[str, Any] = {
        "timings": len(samples),
        "before": report_of(samples, before),
        "after": report_of(samples, after),
        "cross-validated": report_of(samples, held_out),
        "factors": dict(setting.factors),
        "parameters": {p.name: [p.value * each.factors[p.name] for each in (start, setting)] for p in known},
    }
    print(f"{'mean of group means, %':44}" + "".join(f"{kind:>14}" for kind in ("all", *_KINDS)))
    for name in ("before", "after", "cross-validated"):
        print(_row(name, found[name]))
    if arguments.terms:
        found["terms"] = worth_of_terms(samples, table, known, start)
        print("left out, the rest refitted")
        for name, row in sorted(found["terms"].items(), key=lambda item: -item[1]["refitted"]["all"]):
            print(_row(name, row["refitted"]))
    print("parameter, before, after, factor")
    for parameter in sorted(known, key=lambda p: -abs(np.log(setting.factors[p.name] / start.factors[p.name]))):
        first, last = found["parameters"][parameter.name]
        print(f"  {parameter.name:42}{first:12.4g}{last:12.4g}{last / first:9.3f}")
    return found


if __name__ == "__main__":
    main()
