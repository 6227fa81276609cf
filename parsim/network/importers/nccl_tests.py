"""Measured tables of collectives, from every form in which nccl-tests' figures are kept.

- the text that nccl-tests prints, alone or inside other output            (nccl_tests_text)
- the file of its option `-J`: one JSON object with `config` and `results`
- a table file, YAML or JSON: `tables:` with `collective`, `n_gpus` and `rows` of `bytes` and `time_us`
- what `python -m executor calibrate --collectives` writes: a cost file with `collectives`

All end as `MeasuredTable`: sizes in bytes, times in seconds. Errors are SpecError, one line each.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from parsim.errors import SpecError
from parsim.files import parse_json_text
from parsim.network.importers.measured import (
    COLLECTIVES,
    MeasuredRow,
    MeasuredTable,
    PrintedRow,
    kind_of,
    measured_table,
    ranks_from_rates,
)
from parsim.network.importers.nccl_tests_text import PrintedTable, printed_tables
from parsim.spec.yaml_reader import parse_yaml

__all__ = ["MeasuredRow", "MeasuredTable", "is_log", "read_log"]

_JSON = re.compile(r"\s*(?:\{|\[\s*[{\]])")  # "[1,0]<stdout>:" begins a line of mpirun's
_Source = TypeVar("_Source")
_LARGEST_TEXT = 64 * 2**20


def is_log(text: str) -> bool:
    """Whether a text is one of these forms, by what it contains."""
    if _JSON.match(text):
        return any(f'"{word}"' in text for word in ("out_of_place", "collectives", "tables", "busbw_gbps"))
    return "algbw" in text and "busbw" in text


def read_log(text: str, *, kind: str | None = None, ranks: int | None = None) -> tuple[MeasuredTable, ...]:
    """Every table of a log or table file, in order. `kind` and `ranks` say what a source is silent about, and choose
    among tables that say it themselves.

    Raises SpecError: nothing that is a table, a collective or a rank count that neither the source nor the caller says,
    no table of what the caller asks for, a table file that misses a field.
    """
    if kind is not None and kind_of(kind) is None:
        raise SpecError(f"collective {kind[:40]!r} is not one of {', '.join(COLLECTIVES)}")
    said = _Said(None if kind is None else kind_of(kind), ranks)
    if len(text) > _LARGEST_TEXT:
        raise SpecError(f"a log has at most {_LARGEST_TEXT // 2**20} MiB of text")
    if _JSON.match(text):
        tables = _from_document(parse_json_text(text), said)
    elif any(line.startswith("tables:") for line in text.splitlines()):
        tables = _from_document(parse_yaml(text, "table file"), said)
    else:
        tables = _kept(_from_text, printed_tables(text), said)
    if not any(table.rows for table in tables):
        notes = "; ".join(note for table in tables for note in table.notes)
        raise SpecError(
            "no measured row: " + notes[:200]
            if notes
            else "no nccl-tests table: its header line names size, count, type, time, algbw, busbw and rows follow it"
        )
    return tuple(table for table in tables if table.rows)


class _Contradiction(SpecError):
    """A table that is not what the caller asks for."""


def _kept(
    read: Callable[[_Source, "_Said"], MeasuredTable], sources: Iterable[_Source], said: "_Said"
) -> list[MeasuredTable]:
    """The tables that are what the caller asks for; where there is none, why the first is not."""
    tables, others = list[MeasuredTable](), list[_Contradiction]()
    for source in sources:
        try:
            tables.append(read(source, said))
        except _Contradiction as other:
            others.append(other)
    if others and not tables:
        raise SpecError(str(others[0]))
    return tables


class _Said:
    """What the caller knows: fills silence, and chooses among what is said."""

    def __init__(self, kind: str | None, ranks: int | None) -> None:
        self.kind, self.ranks = kind, ranks

    def kind_of(self, found: str | None, where: str) -> str:
        if found is None and self.kind is None:
            raise SpecError(f"{where}: says of no collective which it is; give one of {', '.join(COLLECTIVES)}")
        if found is not None and self.kind not in (None, found):
            raise _Contradiction(f"{where}: measures {found}, not {self.kind}")
        return found or self.kind or ""

    def ranks_of(self, found: int | None, printed: Sequence[PrintedRow], kind: str, where: str) -> int:
        if found is not None and self.ranks not in (None, found):
            raise _Contradiction(f"{where}: lists {found} ranks, not {self.ranks}")
        if (ranks := self.ranks if found is None else found) is not None:
            return ranks
        allowed = ranks_from_rates(printed, kind)
        if allowed is None:
            raise SpecError(f"{where}: neither lists its ranks nor prints rates that give their number; give the ranks")
        if allowed[0] != allowed[1]:
            raise SpecError(
                f"{where}: does not list its ranks, and its rates fit {allowed[0]} to {allowed[1]}; give the ranks"
            )
        return allowed[0]


def _from_text(table: PrintedTable, said: _Said) -> MeasuredTable:
    where = f"table at line {table.line}"
    setting, kind = table.setting, table.setting.kind
    if kind is None and setting.program is not None:
        raise _Contradiction(f"{where}: {setting.program} measures none of {', '.join(COLLECTIVES)}")
    if kind is None and said.kind is None and _twice(table.rows):
        kind = "all_reduce"  # the only one whose busbw exceeds its algbw
    kind = said.kind_of(kind, where)
    found = setting.ranks
    ranks = said.ranks_of(found, table.rows, kind, where) if table.rows else (found or said.ranks or 1)
    notes = [f"{n} row{'s' * (n > 1)} left out: cut short"] if (n := table.cut_short) else []
    if found is None and said.ranks is None and table.rows:
        notes.append(f"{ranks} ranks: from busbw / algbw, the log lists no devices")
    return measured_table(
        table.rows,
        kind=kind,
        ranks=ranks,
        nodes=setting.nodes,
        gpu=setting.gpu,
        algorithm=setting.algorithm,
        source=where,
        notes=notes,
    )


def _twice(rows: Iterable[PrintedRow]) -> bool:
    pairs = [(row.bus_rate, row.algorithm_rate) for row in rows if row.bus_rate and row.algorithm_rate]
    return any(bus > 1.2 * rate and rate > 1e9 for bus, rate in pairs)


def _from_document(document: object, said: _Said) -> list[MeasuredTable]:
    if isinstance(document, list):
        document = {"tables": document}
    if not isinstance(document, dict):
        raise SpecError("a table file is a mapping or a list of tables, this one is a single value")
    if isinstance(results := document.get("results"), list):
        return [_from_json_report(document, results, said)]
    if isinstance(rows := document.get("collectives"), list):
        return _from_calibration(rows, said)
    if "rows" in document:
        document = {"tables": [document]}
    if not isinstance(tables := document.get("tables"), list):
        raise SpecError("not a table file: it has none of `tables`, `results` (nccl-tests -J), `collectives`")
    return _kept(_from_table, [(table, f"table {_label(table, index)}") for index, table in enumerate(tables, 1)], said)


def _label(table: object, index: int) -> str:
    name = table.get("id") if isinstance(table, dict) else None
    return name[:60] if isinstance(name, str) else str(index)


def _from_json_report(document: Mapping[str, Any], results: Sequence[Any], said: _Said) -> MeasuredTable:
    """nccl-tests -J (version 2 of its file): of a process with several GPUs only the first device is listed."""
    where = "nccl-tests JSON"
    args, config = document.get("args"), document.get("config")
    program = args[0] if isinstance(args, list) and args and isinstance(args[0], str) else ""
    config = config if isinstance(config, dict) else {}
    per_process = max((_integer(config.get("nthreads")) or 1) * (_integer(config.get("ngpus")) or 1), 1)
    listed = config.get("devices")
    devices = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    group = min((_integer(one.get("group")) or 0 for one in devices), default=0)
    groups = {_integer(one.get("group")) or 0 for one in devices}
    mine = [one for one in devices if (_integer(one.get("group")) or 0) == group]
    last = max((_integer(one.get("rank")) or 0 for one in mine), default=None)
    found = None if last is None else (last // per_process + 1) * per_process
    if len(groups) > 1:
        found = len(mine) * per_process
    printed = []
    for index, row in enumerate(results, 1):
        if not isinstance(row, dict):
            raise SpecError(f"{where}: result {index} is not a mapping")
        outer, inner = (row.get(key) for key in ("out_of_place", "in_place"))
        halves = [half for half in (outer, inner) if isinstance(half, dict)]
        first = halves[0] if halves else {}
        in_place = _time(inner) if isinstance(inner, dict) else None
        printed.append(
            PrintedRow(
                _integer(row.get("size")),
                _time(first),
                in_place,
                _scaled(first.get("alg_bw"), 1e9),
                _scaled(first.get("bus_bw"), 1e9),
                0.5e3,  # %lf: six decimals of GB/s
                0.5e-12,
            )
        )
    kind = said.kind_of(kind_of(program), where)
    return measured_table(
        printed,
        kind=kind,
        ranks=said.ranks_of(found, printed, kind, where),
        nodes=len({one.get("hostname") for one in mine if isinstance(one.get("hostname"), str)}) or None,
        gpu=next((name for one in mine if isinstance(name := one.get("device_info"), str)), None),
        algorithm=_environment(document.get("env"), "NCCL_ALGO"),
        source=where,
    )


def _time(half: Mapping[str, Any]) -> float | None:
    return _scaled(half.get("time", half.get("cpu_time")), 1e-6)


def _environment(listed: object, name: str) -> str | None:
    values = [one for one in listed if isinstance(one, str)] if isinstance(listed, list) else []
    return next((value.partition("=")[2] or None for value in values if value.startswith(f"{name}=")), None)


def _from_calibration(rows: Sequence[Any], said: _Said) -> list[MeasuredTable]:
    """A table for each collective and rank count of a cost file; a source that names other kinds is passed over."""
    where = "cost file"
    groups: dict[tuple[str, int], list[PrintedRow]] = {}
    for index, row in enumerate(rows, 1):
        fields = row if isinstance(row, dict) else {}
        kind, ranks = fields.get("kind"), _integer(fields.get("ranks"))
        if not isinstance(kind, str) or kind_of(kind) is None or ranks is None:
            raise SpecError(f"{where}: collective {index} needs kind, ranks, bytes and seconds")
        printed = PrintedRow(
            _integer(fields.get("bytes")),
            _scaled(fields.get("seconds"), 1.0),
            None,
            _scaled(fields.get("algbw_gbps"), 1e9),
            _scaled(fields.get("busbw_gbps"), 1e9),
        )
        groups.setdefault((kind_of(kind) or "", ranks), []).append(printed)
    wanted = {key: rows for key, rows in groups.items() if said.kind in (None, key[0]) and said.ranks in (None, key[1])}
    if groups and not wanted:
        has = ", ".join(f"{kind} on {ranks}" for kind, ranks in sorted(groups))
        raise SpecError(f"{where}: has no such collective; it has {has[:200]}")
    return [
        measured_table(printed, kind=kind, ranks=ranks, source=f"{where}: {kind} on {ranks} ranks")
        for (kind, ranks), printed in wanted.items()
    ]


def _from_table(labelled: tuple[object, str], said: _Said) -> MeasuredTable:
    table, where = labelled
    if not isinstance(table, dict) or not isinstance(listed := table.get("rows"), list):
        raise SpecError(f"{where}: needs `collective`, `n_gpus` and a list of `rows`")
    printed = []
    for index, row in enumerate(listed, 1):
        fields = row if isinstance(row, dict) else {}
        if "bytes" not in fields or not {"time_us", "seconds"} & fields.keys():
            raise SpecError(f"{where}: row {index} needs `bytes` and `time_us`")
        printed.append(
            PrintedRow(
                _integer(fields["bytes"]),
                _scaled(fields["time_us"], 1e-6) if "time_us" in fields else _scaled(fields["seconds"], 1.0),
                _scaled(fields.get("time_us_inplace"), 1e-6),
                _scaled(fields.get("algbw_gbps"), 1e9),
                _scaled(fields.get("busbw_gbps"), 1e9),
                0.005e9,
                0.05e-6,
            )
        )
    named = table.get("collective", table.get("kind"))
    if named is not None and (not isinstance(named, str) or kind_of(named) is None):
        raise SpecError(f"{where}: collective {str(named)[:40]!r} is not one of {', '.join(COLLECTIVES)}")
    kind = said.kind_of(None if named is None else kind_of(named), where)
    algorithm = table.get("algo")
    return measured_table(
        printed,
        kind=kind,
        ranks=said.ranks_of(_integer(table.get("n_gpus", table.get("ranks"))), printed, kind, where),
        nodes=_integer(table.get("n_nodes", table.get("nodes"))),
        gpu=hardware if isinstance(hardware := table.get("hardware", table.get("gpu")), str) else None,
        algorithm=algorithm if isinstance(algorithm, str) else None,
        source=str(table.get("source", where))[:200],
    )


def _integer(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _scaled(value: object, factor: float) -> float | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value) * factor if abs(value) < 10**300 else None
    return value * factor if isinstance(value, float) else None
