"""The table of `nvidia-smi topo -m`: what joins each pair of devices, as a tree of switches and hosts.

        GPU0  GPU1  NIC0  CPU Affinity  NUMA Affinity  GPU NUMA ID
    GPU0  X   NV18  PIX   0-23          0              N/A
    GPU1 NV18  X    NODE  0-23          0              N/A
    NIC0 PIX  NODE   X

NV# is # NVLinks: with the same count between all pairs they end at NVSwitches, otherwise they join the GPUs directly.
The other words say how far two devices are apart over PCIe, and become switches and hosts of our own: PIX below one
switch, PXB below one of a second level, PHB and NODE at one host, SYS at another. Where NV# hides how far GPUs are
apart, the NUMA column tells the host. A table has no rates: NVLinks are taken as Hopper's from 18 on, as Ampere's below
(a caller that knows better gives `sm`), PCIe as GPUs of that age have it, without NVLink generation 3.
"""

import re
from collections import Counter
from collections.abc import Sequence

from parsim.errors import SpecError
from parsim.network.importers.imported import (
    NVSWITCH,
    ImportedGpu,
    ImportedHost,
    ImportedNic,
    ImportedNode,
    ImportedSwitch,
    NvLink,
    pcie_bytes_per_s,
)

__all__ = ["is_smi_topology", "read_smi_topology"]

_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_GPU = re.compile(r"GPU\d{1,4}\Z")
_CELL = re.compile(r"(?:X|NV\d{1,4}|PIX|PXB|PHB|NODE|SOC|SYS|C2C|N/A|DIS)\Z")
_LEGEND = re.compile(r"\s*(NIC\d{1,4})\s*:\s*(\S+)\s*\Z")
_LEVELS = {"PIX": 1, "PXB": 2, "PHB": 3, "NODE": 3, "SOC": 4, "SYS": 4}
_PCIE = ((90, 32.0), (80, 16.0), (0, 8.0))
"""(least compute capability, GT/s): the PCIe generation that GPUs of this age have."""
_HOST_BYTES_PER_S = 6e9
_MOST_DEVICES = 512


def is_smi_topology(text: str) -> bool:
    """Whether a text holds such a table."""
    return _header(_lines(text)) is not None


def read_smi_topology(text: str, *, sm: int | None = None, nic_bytes_per_s: float | None = None) -> ImportedNode:
    """The node that a table describes. `sm` and `nic_bytes_per_s` are what a table cannot tell.

    Raises SpecError: no table, a row that is cut, a cell that is no such word, counts of NVLinks that contradict.
    """
    lines = _lines(text)
    found = _header(lines)
    if found is None:
        raise SpecError("no nvidia-smi topo -m table: its header names GPU0 and a row of the same name follows")
    start, names = found
    cells, numa = _rows(lines, start, names)
    gpus = [name for name in names if _GPU.match(name)]
    legend = {match[1]: match[2] for line in lines if (match := _LEGEND.match(line))}
    notes: list[str] = []
    counts = _nvlink_counts(gpus, cells)
    links, generation = _nvlinks(gpus, counts, sm, notes)
    tree = _Tree(names, cells, numa, notes)
    gigatransfers = next(rate for least, rate in _PCIE if (generation or 0) >= least)
    rate = pcie_bytes_per_s(gigatransfers, 16)
    notes.append(
        f"PCIe is taken to be {gigatransfers:g} GT/s on 16 lanes, {_HOST_BYTES_PER_S / 1e9:g} GB/s between hosts,"
        " for a table does not tell"
    )
    titles = {name: legend.get(name, name) for name in names}
    if len(set(titles.values())) < len(titles):
        raise SpecError("NIC Legend: two NICs have one name")
    nics = [name for name in names if name not in gpus]
    if nics and nic_bytes_per_s is None:
        notes.append(f"{len(nics)} of {len(nics)} NICs have no speed in a table")
    return ImportedNode(
        tuple(
            ImportedGpu(gpu, tree.parent[gpu], rate, int(gpu[3:]), generation, numa.get(gpu), links[gpu])
            for gpu in gpus
        ),
        tuple(ImportedNic(titles[nic], tree.parent[nic], rate, nic_bytes_per_s) for nic in nics),
        tuple(ImportedSwitch(name, parent, rate) for name, parent in tree.switches.items()),
        tuple(ImportedHost(name, 0, number, _HOST_BYTES_PER_S) for name, number in tree.hosts.items()),
        "nvidia-smi topo -m",
        tuple(notes),
    )


def _lines(text: str) -> list[str]:
    return [_ESCAPE.sub("", line) for line in text[: 4 * 2**20].splitlines()]


def _header(lines: Sequence[str]) -> tuple[int, list[str]] | None:
    """Index of the line of column names, and the devices it names."""
    for index, line in enumerate(lines):
        words = line.split()
        if not words or not _GPU.match(words[0]) or (len(words) > 1 and _CELL.match(words[1])):
            continue
        ends = [place for place, word in enumerate(words) if word in ("CPU", "NUMA", "GPU")]  # "CPU Affinity" and on
        names = words[: ends[0]] if ends else words
        follows = next((each.split() for each in lines[index + 1 :] if each.strip()), [])
        if len(follows) > 1 and follows[0] in names and _CELL.match(follows[1]):
            return index, names
    return None


def _rows(
    lines: Sequence[str], start: int, names: Sequence[str]
) -> tuple[dict[str, dict[str, str]], dict[str, int | None]]:
    """Cells by device and device, and the NUMA node of each GPU where there is such a column."""
    if len(names) > _MOST_DEVICES or len(set(names)) < len(names):
        raise SpecError(f"line {start + 1}: {len(names)} devices, {len(set(names))} of them different")
    cells: dict[str, dict[str, str]] = {}
    numa: dict[str, int | None] = {}
    has_numa = "NUMA Affinity" in " ".join(lines[start].split())
    for number, line in enumerate(lines[start + 1 :], start + 2):
        words = line.split()
        if not words or words[0] not in names or len(cells) == len(names):
            if words and words[0].rstrip(":") == "Legend":
                break
            continue
        name, row = words[0], words[1 : len(names) + 1]
        if name in cells:
            raise SpecError(f"line {number}: a second row of {name}")
        if len(row) < len(names):
            raise SpecError(f"line {number}: the row of {name} has {len(row)} of {len(names)} cells; is it cut short?")
        for cell in row:
            if not _CELL.match(cell):
                raise SpecError(
                    f"line {number}: {cell[:20]!r} in the row of {name} is not X, NV#, PIX, PXB, PHB, NODE, SYS"
                )
        cells[name] = dict(zip(names, row, strict=True))
        rest = words[len(names) + 1 :]
        if has_numa and len(rest) >= 2 and rest[1].split("-")[0].split(",")[0].isdigit():
            numa[name] = int(rest[1].split("-")[0].split(",")[0][:6])
    missing = [name for name in names if name not in cells]
    if missing:
        raise SpecError(f"the table ends before the row of {missing[0]}; is it cut short?")
    return cells, numa


def _nvlink_counts(gpus: Sequence[str], cells: dict[str, dict[str, str]]) -> dict[tuple[str, str], int]:
    counts = {}
    for one in gpus:
        for other in gpus:
            cell, back = cells[one][other], cells[other][one]
            if cell.startswith("NV") != back.startswith("NV") or (cell.startswith("NV") and cell != back):
                raise SpecError(f"{one} to {other} is {cell}, {other} to {one} is {back}: a link has two equal ends")
            if cell.startswith("NV") and one != other and int(cell[2:]) > 0:
                counts[one, other] = int(cell[2:])
    return counts


def _nvlinks(
    gpus: Sequence[str], counts: dict[tuple[str, str], int], sm: int | None, notes: list[str]
) -> tuple[dict[str, tuple[NvLink, ...]], int | None]:
    """NVLinks of each GPU, and the compute capability they are taken to be of."""
    alike = set(counts.values())
    most = max(alike, default=0)
    if counts and sm is None:
        sm = 90 if most >= 18 else 80
        told = "Hopper (Blackwell has 18 too: give sm 100)" if sm == 90 else "Ampere or Volta"
        notes.append(f"NVLinks are taken to be of {told}, for a table does not tell")
    switched = len(alike) == 1 and len(counts) == len(gpus) * (len(gpus) - 1) and (len(gpus) > 2 or most > 4)
    if switched:
        notes.append(f"NV{most} between all pairs: the links are taken to end at NVSwitches")
        return {gpu: (NvLink(NVSWITCH, most),) for gpu in gpus}, sm
    return {
        gpu: tuple(NvLink(other, counts[gpu, other]) for other in gpus if (gpu, other) in counts) for gpu in gpus
    }, sm


class _Tree:
    """Switches and hosts that agree with how far devices are apart."""

    def __init__(
        self,
        names: Sequence[str],
        cells: dict[str, dict[str, str]],
        numa: dict[str, int | None],
        notes: list[str],
    ) -> None:
        self.parent: dict[str, str] = {}
        self.switches: dict[str, str] = {}
        self.hosts: dict[str, int | None] = {}
        self.names, self.notes = names, notes
        self.levels = {
            (one, other): level
            for one in names
            for other in names
            if one != other and (level := _closest(cells[one][other], cells[other][one])) is not None
        }
        below = [self._groups(level, {}) for level in (1, 2)]
        hosts = self._groups(3, numa)
        self._build(below, hosts, numa)

    def _groups(self, level: int, numa: dict[str, int | None]) -> dict[str, str]:
        """The first device of each device's group at a level: what is so near, or near to what is so near."""
        leader = {name: name for name in self.names}
        place = {name: index for index, name in enumerate(self.names)}

        def find(name: str) -> str:
            while leader[name] != name:
                leader[name] = leader[leader[name]]
                name = leader[name]
            return name

        def merge(one: str, other: str) -> None:
            first, second = sorted((find(one), find(other)), key=place.__getitem__)
            leader[second] = first

        for (one, other), found in self.levels.items():
            if found <= level:
                merge(one, other)
        for one in numa:
            for other in numa:
                # NV# hides how far two GPUs are apart; what the table does tell (SYS) is not overruled.
                if None is not numa[one] == numa[other] and (one, other) not in self.levels:
                    merge(one, other)
        return {name: find(name) for name in self.names}

    def _build(self, below: Sequence[dict[str, str]], hosts: dict[str, str], numa: dict[str, int | None]) -> None:
        pix, pxb = below
        sizes = Counter(pix.values())
        host_names: dict[str, str] = {}
        for name in self.names:
            host = host_names.setdefault(hosts[name], f"host{len(host_names)}")
            numbers = [numa.get(each) for each in self.names if hosts[each] == hosts[name]]
            self.hosts.setdefault(host, next((number for number in numbers if number is not None), None))
            upper = host
            if len({pix[each] for each in self.names if pxb[each] == pxb[name]}) > 1:
                upper = f"upper.{pxb[name]}"
                self.switches[upper] = host
            self.parent[name] = upper
            if sizes[pix[name]] > 1 or upper != host:
                switch = f"switch.{pix[name]}"
                self.switches[switch] = upper
                self.parent[name] = switch


def _closest(one: str, other: str) -> int | None:
    """The nearer of the two directions of a pair; None where only NVLinks are told."""
    found = [_LEVELS[cell] for cell in (one, other) if cell in _LEVELS]
    return min(found) if found else None
