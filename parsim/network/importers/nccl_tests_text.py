"""The printed text of nccl-tests (and rccl-tests), also inside the output of mpirun, srun or a container's log.

A table begins with its line of column names and is read by those names, wherever they stand:

    #       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
    #        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
         1048576        262144     float     sum      -1    93.25   11.24   21.08      0    94.10   11.14   20.89      0

The second `time` is in place. A prefix of each line ("[1,0]<stdout>:", "node-0: ", a time stamp) is passed over, as is
everything that is neither a header, a device line nor a row. What a table was measured on is said above it.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from parsim.errors import SpecError
from parsim.network.importers.measured import PrintedRow, kind_of

__all__ = ["PrintedTable", "Setting", "printed_tables"]

_TAG = re.compile(r"\[\d+,\d+\]<\w+>:?|\x1b\[[0-9;]*m")
_HEADER = re.compile(r"(?:^|[\s#])(size\s+count\s.*\b(?:cpu)?time\s+algbw\s+busbw)")
_UNITS = re.compile(r"\(elements\)|\(\w?s\)\s+\(")
_DEVICE = re.compile(
    r"Rank\s+(\d{1,7})\s+(?:Group\s+(\d{1,7})\s+)?Pid\s+\d+\s+on\s+(\S+)\s+device\s+\d+\s+\[[^\]]*\]\s*(.*)"
)
_SETTINGS = re.compile(r"nThread\s+(\d{1,6})\s+nGpus\s+(\d{1,6})\s+minBytes")
_PROGRAM = re.compile(r"\b(\w+_perf)(?:_mpi)?\b")
_ALGORITHM = re.compile(r"\bNCCL_ALGO(?:=| set by environment to )\"?([A-Za-z^][\w,^:;]*)")
_WORDS = {"type", "redop", "root"}
_TIMES = {"time", "cputime"}
_SECONDS_OF = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_BYTES = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}
_RATES = {"B/s": 1.0, "KB/s": 1e3, "MB/s": 1e6, "GB/s": 1e9, "TB/s": 1e12}
_LONGEST_PREFIX, _LONGEST_LINE = 6, 16_384
_INTEGER = re.compile(r"[-+]?\d{1,30}\Z")
_NUMBER = re.compile(r"[-+]?(?:\d{1,30}\.?\d{0,30}(?:[eE][-+]?\d{1,4})?|inf|nan)\Z", re.IGNORECASE)


@dataclass
class PrintedTable:
    """One table as printed, with what stood above it. `line` counts from 1."""

    line: int
    columns: tuple[str, ...]
    setting: "Setting"
    rows: list[PrintedRow] = field(default_factory=list)
    cut_short: int = 0
    """Rows that stop in the middle, before their time and rates."""


@dataclass
class Setting:
    """What the lines above a table say: the collective, the devices, the algorithm that was asked for."""

    kind: str | None = None
    program: str | None = None
    """The program that was named, also where it is of no known kind."""
    algorithm: str | None = None
    per_process: int | None = None
    """GPUs of one process: nThread * nGpus."""
    devices: dict[tuple[int, int], tuple[str, str]] = field(default_factory=dict)
    """Host and GPU name by (group, rank)."""

    @property
    def ranks(self) -> int | None:
        """Ranks of one communicator: those of the first group, rounded up to whole processes (long lists are cut)."""
        groups = Counter(group for group, _ in self.devices)
        if not groups:
            return None
        if len(groups) > 1:
            return groups[min(groups)]
        per_process = self.per_process or 1
        return (max(rank for _, rank in self.devices) // per_process + 1) * per_process

    @property
    def nodes(self) -> int | None:
        """Hosts of the first group."""
        hosts = {host for (group, _), (host, _) in self.devices.items() if group == min(self.devices)[0]}
        return len(hosts) or None

    @property
    def gpu(self) -> str | None:
        """The GPU name that most ranks have."""
        names = Counter(name for _, name in self.devices.values() if name)
        return names.most_common(1)[0][0] if names else None


def printed_tables(text: str) -> list[PrintedTable]:
    """Every table of a log, in order. None at all: an empty list."""
    tables: list[PrintedTable] = []
    setting, units = Setting(), list[str]()
    for number, raw in enumerate(text.splitlines(), 1):
        line = _TAG.sub(" ", raw[:_LONGEST_LINE])
        filled = bool(tables) and tables[-1].setting is setting and bool(tables[-1].rows)
        if header := _HEADER.search(line):
            if not tables or tables[-1].setting is not setting or filled:
                tables.append(PrintedTable(number, tuple(line[header.start(1) :].split()), setting))
                units = []
        elif tables and not units and _UNITS.search(line):
            units = re.findall(r"\(([^()\s]+)\)", line)
        elif (
            tables
            and tables[-1].setting is setting
            and "NCCL INFO" not in line
            and (row := _row(line, tables[-1], units, number)) is not None
        ):
            tables[-1].rows.append(row)
        elif (change := _told(line)) is not None:
            if filled:
                setting = Setting()  # what is said after a table's rows belongs to the next table
            change(setting)
    return [table for table in tables if table.rows or table.cut_short]


def _told(line: str) -> Callable[[Setting], None] | None:
    """What a line says about the tables after it, as a change to their setting; None where it says nothing."""
    if device := _DEVICE.search(line):
        rank, group, host, gpu = device.groups()
        return lambda setting: setting.devices.update({(int(group or 0), int(rank)): (host, gpu.strip())})
    if sizes := _SETTINGS.search(line):
        per_process = max(int(sizes[1]) * int(sizes[2]), 1)
        return lambda setting: setattr(setting, "per_process", per_process)
    if "Collective test concluded" in line:
        return None
    programs = _PROGRAM.findall(line)
    algorithm = _ALGORITHM.search(line)
    if not programs and algorithm is None:
        return None

    def change(setting: Setting) -> None:
        if programs:
            setting.program, setting.kind = programs[-1], kind_of(programs[-1])
        setting.algorithm = algorithm[1] if algorithm else setting.algorithm

    return change


def _row(line: str, table: PrintedTable, units: Sequence[str], number: int) -> PrintedRow | None:
    tokens = line.split()
    columns = table.columns
    lead = next(i for i, name in enumerate(columns) if name in _TIMES)
    groups = [i for i, name in enumerate(columns) if name in _TIMES]
    for skipped in range(min(_LONGEST_PREFIX, max(len(tokens) - 2, 0)) + 1):
        cells = tokens[skipped:]
        if not _leads(cells, columns[:lead]):
            continue
        cells = [cell for cell in cells if cell != "|"]
        if len(cells) < len(columns) and len(groups) == 2 and _gap(line) and len(cells) >= len(columns) - groups[1]:
            # The out-of-place half is blank: what is printed was measured in place.
            blank = groups[1] - groups[0]
            cells = [*cells[:lead], *[""] * blank, *cells[lead:]]
        if len(cells) < min(lead + 4, len(columns)):
            table.cut_short += 1
            return None
        if len(cells) < len(columns) and len(groups) == 2 and cells[lead]:
            cells = cells[: groups[1]]  # half a second half: its last figure may be cut in the middle
        return _printed(cells, columns, units, number)
    return None


def _leads(cells: Sequence[str], names: Sequence[str]) -> bool:
    """Whether cells begin as a row does: a size, a count, then a type that is a word."""
    if len(cells) < 2 or not re.match(r"-?\d+\Z", cells[0]):
        return False
    for cell, name in zip(cells, names, strict=False):
        if name == "count" and not re.match(r"-?\d+\Z", cell):
            return False
        if name == "type" and not re.match(r"[A-Za-z]\w*\Z", cell):
            return False
    return True


def _gap(line: str) -> bool:
    """Whether a row has a hole as wide as a time, two rates and a count of wrong values."""
    return re.search(r"\S {30,}\S", line.strip()) is not None


def _printed(cells: Sequence[str], columns: Sequence[str], units: Sequence[str], number: int) -> PrintedRow:
    byte, second, rate = _units(units, number)
    found: dict[str, list[str]] = {}
    for name, cell in zip(columns, cells, strict=False):
        found.setdefault("time" if name in _TIMES else name, []).append(cell)
    times = [*found["time"], "", ""]
    blank = not times[0]
    taken = 1 if blank else 0
    seconds = _number(times[taken])
    algorithm, bus = (_pick(found.get(name, []), taken) for name in ("algbw", "busbw"))
    in_place = _number(times[1])
    size = found["size"][0]
    return PrintedRow(
        int(size) * byte if _INTEGER.match(size) else None if len(size) <= 30 else 2**63,
        None if seconds is None else seconds * second,
        None if in_place is None else in_place * second,
        None if (value := _number(algorithm)) is None else value * rate,
        None if (value := _number(bus)) is None else value * rate,
        max(_half_unit(algorithm), _half_unit(bus)) * rate,
        _half_unit(times[taken]) * second,
    )


def _pick(cells: Sequence[str], index: int) -> str:
    return cells[index] if index < len(cells) else ""


def _units(units: Sequence[str], number: int) -> tuple[int, float, float]:
    """Factors to bytes, seconds and bytes/s of the line of units; nccl-tests' own where there is none."""
    found: list[float] = []
    for known, default in ((_BYTES, "B"), (_SECONDS_OF, "us"), (_RATES, "GB/s")):
        named = next((unit for unit in units if unit in known), default)
        found.append(known[named])
    unknown = [unit for unit in units if unit not in {"elements", "%", *_BYTES, *_SECONDS_OF, *_RATES}]
    if unknown:
        raise SpecError(f"line {number}: unit ({unknown[0][:20]}) is not one of nccl-tests: (B), (us), (GB/s)")
    return int(found[0]), found[1], found[2]


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.match(text) else None


def _half_unit(text: str) -> float:
    """Half of the last digit that a number was printed with, 0 where it is none."""
    if not _NUMBER.match(text) or not text.strip("+-")[:1].isdigit():
        return 0.0
    mantissa, _, exponent = text.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    power = int(exponent or 0) - decimals
    return 0.5 * 10.0**power if -300 < power < 300 else 0.0
