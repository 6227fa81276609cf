"""Scoring: the errors of predictions against what was measured, and the figures over a set of them.

An error is predicted / measured - 1, for bubble rates predicted - measured. A step's measured time is
`measured.step_time_s`, else `derived.step_time_s`; a layer gives two errors, its forward's and its backward's.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from records import Record

__all__ = ["DECIDING", "Error", "errors_of", "figures", "grouped", "measured_of", "pairs", "rank_errors", "reason_of"]

DECIDING = (
    "software.attention",
    "layout.recompute",
    "layout.vp",
    "layout.micro_batch",
    "software.gradient_dtype",
    "software.tp_overlap",
    "software.dp_overlap",
    "software.ep_overlap",
)
"""Fields that move a prediction most where a publication leaves them open."""

_SAME = 0.05  # pairs of runs closer than this are one speed


class Error(NamedTuple):
    """One measured number and what was predicted for it."""

    record: Record
    figure: str
    measured: float
    predicted: float

    @property
    def value(self) -> float:
        """Signed: a share of the measured number, for bubble rates the difference."""
        if self.figure == "bubble_rate":
            return self.predicted - self.measured
        return self.predicted / self.measured - 1.0

    @property
    def is_moe(self) -> bool:
        """Whether the run's model has experts."""
        return self.record["model"].get("moe") is not None


def measured_of(record: Record) -> dict[str, float]:
    """The numbers of a record that can be predicted, by the names of predictions.json."""
    measured, kind = record.get("measured") or {}, record["kind"]
    derived = record.get("derived") or {}
    found = {
        "step_time_s": (measured.get("step_time_s") or derived.get("step_time_s")) if kind == "e2e" else None,
        "layer_fwd_ms": measured.get("layer_fwd_ms") if kind == "layer" else None,
        "layer_bwd_ms": measured.get("layer_bwd_ms") if kind == "layer" else None,
        "bubble_rate": measured.get("bubble_rate") if kind == "schedule" else None,
        "peak_mem_gib": measured.get("peak_mem_gib"),
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def errors_of(predictions: Mapping[str, Mapping[str, Any]], records: Iterable[Record]) -> Iterator[Error]:
    """Every number that was both measured and predicted."""
    for record in records:
        predicted = predictions.get(record["id"]) or {}
        for name, value in measured_of(record).items():
            if name in predicted:
                yield Error(record, name, value, float(predicted[name]))


def rank_errors(predictions: Mapping[str, Mapping[str, Any]], records: Iterable[Record]) -> Iterator[Error]:
    """Peak memory of every single rank, where all were measured: those of one pipeline rank follow each other."""
    for record in records:
        measured = (record.get("measured") or {}).get("peak_mem_by_rank_gib") or ()
        predicted = (predictions.get(record["id"]) or {}).get("peak_mem_by_pipeline_rank_gib") or ()
        if not predicted or len(measured) % len(predicted):
            continue
        width = len(measured) // len(predicted)
        for rank, value in enumerate(measured):
            yield Error(record, "peak_mem_by_rank_gib", float(value), float(predicted[rank // width]))


def figures(errors: Sequence[Error], scale: float = 100.0) -> dict[str, float | int | None]:
    """Percent (points for bubble rates): mean, mean of group means, 90th percentile, maximum, and the signed mean."""
    names = ("mean", "macro", "p90", "max", "bias")
    if not errors:
        return {"n": 0, **dict.fromkeys(names)}
    values = scale * np.array([error.value for error in errors])
    sizes = np.abs(values)
    means = [np.mean([abs(e.value) for e in part]) for part in grouped(errors, lambda e: e.record["group"]).values()]
    found = (sizes.mean(), scale * np.mean(means), np.quantile(sizes, 0.9), sizes.max(), values.mean())
    return {"n": len(errors), **{name: round(float(value), 3) for name, value in zip(names, found, strict=True)}}


def grouped(errors: Iterable[Error], key: Callable[[Error], str]) -> dict[str, list[Error]]:
    """Errors by a word, in alphabetical order."""
    found: dict[str, list[Error]] = defaultdict(list)
    for error in errors:
        found[key(error)].append(error)
    return dict(sorted(found.items()))


def pairs(errors: Iterable[Error]) -> tuple[int, int]:
    """Of two layouts of the same job measured 5% or more apart: how many pairs, in how many the faster is picked.

    The same job: publication and release, model, GPUs, network, global batch, precision, and the software below the
    layout (framework and release).
    """
    jobs = grouped(errors, _job)
    count = right = 0
    for job in jobs.values():
        for index, first in enumerate(job):
            for second in job[index + 1 :]:
                if max(first.measured, second.measured) < (1 + _SAME) * min(first.measured, second.measured):
                    continue
                count += 1
                right += (first.measured < second.measured) == (first.predicted < second.predicted)
    return count, right


def _job(error: Error) -> str:
    record = error.record
    software = record["software"]
    parts = [record.get(name) for name in ("source", "release", "gpu", "n_gpus", "network", "model", "precision")]
    parts += [record["layout"].get("global_batch"), software.get("framework"), software.get("preset_version")]
    return json.dumps(parts, sort_keys=True, default=str)


def reason_of(record: Record) -> str:
    """Why a prediction may be off: what the publication does not say, as far as it moves a prediction."""
    if gaps := record.get("config_gaps"):
        return "; ".join(map(str, gaps))
    assumed: list[Any] = [name for name in record.get("assumed") or () if name in DECIDING]
    return f"assumed: {', '.join(assumed)}" if assumed else "all that decides is stated"
