"""One node as another program saw it: its GPUs, NICs, switches and CPUs, and what each link carries.

The rates are those that NCCL reckons with, which are what its collectives reach (GB/s, 1e9, one direction):

    NVLink per link      18 sm60, 20 sm70 and sm80, 12 sm86, 20.6 sm90, 40.1 sm100      (nominal 20, 25, 14, 25, 50)
    xGMI per link        24 GB/s, MI200 36, from MI300 on 48 (RCCL)                     (nominal of MI300 64)
    PCIe                 GT/s * lanes * 0.75 / 8; generations 1 and 2: 0.6 / 8          (gen 3 x16: 12 GB/s)
    between CPUs         Intel 6, from Skylake 10, Sapphire Rapids 22, Emerald Rapids 40; AMD 16; Arm 6; POWER9 32
    NIC                  its speed, Mbit/s / 8000

Where a file is silent NCCL assumes PCIe generation 3 on 16 lanes, and so does this; `notes` say what was assumed.
Source: NCCL 2.30, src/graph/topo.h and topo.cc.
"""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "NVSWITCH",
    "ImportedGpu",
    "ImportedHost",
    "ImportedNic",
    "ImportedNode",
    "ImportedSwitch",
    "NodeValues",
    "NvLink",
    "host_bytes_per_s",
    "node_values",
    "nvlink_bytes_per_s",
    "pcie_bytes_per_s",
    "xgmi_bytes_per_s",
]

_DEFAULT_GIGATRANSFERS, _DEFAULT_LANES = 8.0, 16
_NVLINK = ((100, 40.1e9, 50e9), (90, 20.6e9, 25e9), (86, 12e9, 14.0625e9), (70, 20e9, 25e9), (60, 18e9, 20e9))
"""(least compute capability, effective, nominal) bytes/s of one link, one direction."""

NVSWITCH = "nvswitch"
"""The one node that stands for all NVSwitches of an NVLink domain."""


@dataclass(frozen=True)
class NvLink:
    """`count` NVLinks to the node's NVSwitches (`nvswitch`) or to a GPU, by name."""

    target: str
    count: int


@dataclass(frozen=True)
class ImportedGpu:
    """A GPU. `nvlinks` is None where the file does not tell (vendor files: NCCL probes them), empty where it has none.

    `sm` is the compute capability times ten (90 is Hopper), `parent` the switch or host that it hangs from.
    """

    name: str
    parent: str
    pcie_bytes_per_s: float
    rank: int | None = None
    sm: int | None = None
    numa: int | None = None
    nvlinks: tuple[NvLink, ...] | None = None
    xgmi: str | None = None
    """The AMD architecture (gfx942) of a GPU whose links are xGMI instead of NVLink."""

    def link_bytes_per_s(self, *, nominal: bool = False) -> float:
        """Bytes/s of one of its NVLinks (xGMI links) in one direction, effective or of the datasheet."""
        if self.xgmi is not None:
            return xgmi_bytes_per_s(self.xgmi, nominal=nominal)
        return nvlink_bytes_per_s(self.sm, nominal=nominal)


@dataclass(frozen=True)
class ImportedNic:
    """A port of a network card; `bytes_per_s` is None where the file does not tell its speed."""

    name: str
    parent: str
    pcie_bytes_per_s: float
    bytes_per_s: float | None = None
    numa: int | None = None
    latency_s: float = 0.0


@dataclass(frozen=True)
class ImportedSwitch:
    """A PCIe switch and its link upwards."""

    name: str
    parent: str
    bytes_per_s: float


@dataclass(frozen=True)
class ImportedHost:
    """A CPU socket or NUMA domain; `bytes_per_s` is what it carries to each of the others of its machine."""

    name: str
    machine: int
    numa: int | None
    bytes_per_s: float
    cpu: str = "unknown"


@dataclass(frozen=True)
class ImportedNode:
    """What one file describes: a node, or several that share an NVLink domain (`machines`).

    GPUs are in rank order where the file knows ranks, else in its own order. `source` names the kind of file.
    """

    gpus: tuple[ImportedGpu, ...]
    nics: tuple[ImportedNic, ...]
    switches: tuple[ImportedSwitch, ...]
    hosts: tuple[ImportedHost, ...]
    source: str
    notes: tuple[str, ...] = ()

    @property
    def machines(self) -> int:
        """Machines with a CPU of their own."""
        return len({host.machine for host in self.hosts}) or 1

    def ancestors(self, name: str) -> tuple[str, ...]:
        """What a GPU, NIC or switch hangs from, nearest first, ending with its host."""
        parents = {gpu.name: gpu.parent for gpu in self.gpus} | {nic.name: nic.parent for nic in self.nics}
        parents |= {switch.name: switch.parent for switch in self.switches}
        found: list[str] = []
        while name in parents:
            name = parents[name]
            found.append(name)
        return tuple(found)

    def closeness(self, one: str, other: str) -> str:
        """How near two devices are over PCIe, in NCCL's words: PIX one switch, PXB several, PHB one CPU, SYS more."""
        mine, theirs = self.ancestors(one), self.ancestors(other)
        hosts = {host.name for host in self.hosts}
        shared = next((name for name in mine if name in theirs), None)
        if shared is None:
            return "SYS"
        if shared in hosts:
            return "PHB"
        return "PIX" if mine[0] == shared == theirs[0] else "PXB"

    def nearest_nics(self, gpu: str) -> tuple[str, ...]:
        """The NICs with the best closeness to a GPU."""
        order = ("PIX", "PXB", "PHB", "SYS")
        ranked = [(order.index(self.closeness(gpu, nic.name)), nic.name) for nic in self.nics]
        return tuple(name for place, name in ranked if place == min(ranked)[0])


class NodeValues(NamedTuple):
    """An imported node in a node specification's terms; rates are bytes/s in one direction, None is "not told".

    `nvlink_bytes_per_s` is what a GPU sends over all its NVLinks, `nvlink_domain` how many GPUs reach each other so.
    """

    gpus: int
    nics: int
    nic_bytes_per_s: float | None
    nvlink_domain: int | None
    nvlink_bytes_per_s: float | None
    nvlink_nominal_bytes_per_s: float | None
    pcie_bytes_per_s: float | None
    sm: int | None


def node_values(imported: ImportedNode) -> NodeValues:
    """Numbers of a node; where devices differ the smallest, for collectives run at the pace of the slowest."""
    speeds = [nic.bytes_per_s for nic in imported.nics if nic.bytes_per_s is not None]
    told = [gpu for gpu in imported.gpus if gpu.nvlinks is not None]
    capabilities = [gpu.sm for gpu in imported.gpus if gpu.sm is not None]
    rates = nominal = domain = None
    if told and len(told) == len(imported.gpus):
        counts = [(sum(link.count for link in gpu.nvlinks or ()), gpu) for gpu in told]
        rates = min(count * gpu.link_bytes_per_s() for count, gpu in counts)
        nominal = min(count * gpu.link_bytes_per_s(nominal=True) for count, gpu in counts)
        domain = min(_domains(imported).values(), default=1)
    return NodeValues(
        gpus=len(imported.gpus),
        nics=len(imported.nics),
        nic_bytes_per_s=min(speeds) if len(speeds) == len(imported.nics) and speeds else None,
        nvlink_domain=domain,
        nvlink_bytes_per_s=rates,
        nvlink_nominal_bytes_per_s=nominal,
        pcie_bytes_per_s=min((gpu.pcie_bytes_per_s for gpu in imported.gpus), default=None),
        sm=min(capabilities) if capabilities else None,
    )


def _domains(imported: ImportedNode) -> dict[str, int]:
    """The size of each GPU's NVLink domain: the GPUs it reaches over NVLink, itself too."""
    leader = {gpu.name: gpu.name for gpu in imported.gpus} | {NVSWITCH: NVSWITCH}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for gpu in imported.gpus:
        for link in gpu.nvlinks or ():
            if link.target in leader:
                leader[find(gpu.name)] = find(link.target)
    sizes = Counter(find(gpu.name) for gpu in imported.gpus)
    return {gpu.name: sizes[find(gpu.name)] for gpu in imported.gpus}


def nvlink_bytes_per_s(sm: int | None, *, nominal: bool = False) -> float:
    """Bytes/s of one NVLink in one direction; of an unknown generation as on sm80, as NCCL does."""
    known = 80 if sm is None or sm < 60 else sm
    effective, datasheet = next((rate, face) for least, rate, face in _NVLINK if known >= least and _is(known, least))
    return datasheet if nominal else effective


def _is(sm: int, least: int) -> bool:
    """sm86 is a generation of its own: sm87 to sm89 have no NVLink and count as sm80."""
    return least != 86 or sm == 86


def xgmi_bytes_per_s(architecture: str, *, nominal: bool = False) -> float:
    """Bytes/s of one xGMI link in one direction, by the AMD architecture (gfx942; older files 942 or 910)."""
    name = architecture.strip().lower().removeprefix("gfx")
    if name.startswith("94") and nominal:
        return 64e9
    if name.startswith(("94", "95")):
        return 48e9
    return 36e9 if name.startswith(("90a", "910")) else 24e9


def pcie_bytes_per_s(gigatransfers: float | None, lanes: int | None) -> float:
    """Effective bytes/s of a PCIe link in one direction; None or 0 is unknown, as a virtual machine shows it."""
    rate = gigatransfers or _DEFAULT_GIGATRANSFERS
    share = 0.6 if rate <= 5 else 0.75  # 8b/10b coding, then 128b/130b; the rest is packet headers
    return rate * share * 1e9 / 8 * (lanes or _DEFAULT_LANES)


def host_bytes_per_s(vendor: str, family: int, model: int, arch: str) -> tuple[float, str]:
    """Bytes/s between two CPUs of a machine in one direction, and what the CPU is."""
    if arch.startswith("ppc"):
        return 32e9, "POWER9"
    if arch in ("arm64", "aarch64"):
        return 6e9, "Arm"
    plain = vendor.strip()
    if plain in ("AuthenticAMD", "AMD", "HygonGenuine"):
        return 16e9, "AMD"
    if plain == "GenuineIntel":
        for least, rate, name in (
            (0xCF, 40e9, "Emerald Rapids"),
            (0x8F, 22e9, "Sapphire Rapids"),
            (0x55, 10e9, "Skylake"),
        ):
            if family == 6 and model >= least:
                return rate, f"Intel {name} or later"
        return 6e9, "Intel"
    if plain in ("CentaurHauls", "Shanghai"):
        return (9e9, "Zhaoxin Yongfeng") if (family, model) == (7, 0x5B) else (6e9, "Zhaoxin")
    return 6e9, "unknown"
