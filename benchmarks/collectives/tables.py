"""Tables: published nccl-tests results in the format of nccl_tests.yaml, each with what its group has between ranks.

A table says its hardware in the publisher's words. What a predictor may read of it is GPU type, NICs, nodes and GPUs,
the fabric and a stated setting (a forced algorithm or protocol, SHARP): never its id, its cluster, its source.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from parsim.errors import SpecError
from parsim.network.reach import Reach

__all__ = ["DATA", "Row", "Table", "read_tables"]

DATA = Path(__file__).parent / "nccl_tests.yaml"
KINDS = {"alltoall": "all_to_all", "sendrecv": "send"}
_GIGA = 1e9


class _Gpu(NamedTuple):
    """Data sheet: NVLink in GB/s one direction (0: none), compute capability, GPUs a node, NVLink domain, NIC Gb/s."""

    pattern: str
    nvlink_gbps: float
    compute_capability: int | None
    gpus: int
    domain: int
    nic_gbps: float
    pcie_gbps: float = 31.5


# What a publisher's words for a GPU mean; the first that fits. NIC: what such nodes have where the table does not say.
_GPUS = (
    _Gpu(r"GB300", 900, 103, 4, 72, 800, 63),
    _Gpu(r"GB200", 900, 100, 4, 72, 400, 63),
    _Gpu(r"GH200", 450, 90, 1, 1, 400, 63),
    _Gpu(r"B300", 900, 103, 8, 8, 800, 63),
    _Gpu(r"B200", 900, 100, 8, 8, 400, 63),
    _Gpu(r"H800", 200, 90, 8, 8, 400, 63),
    _Gpu(r"H(100|200).*(PCIE|NVL\b)", 0, 90, 8, 8, 400, 63),
    _Gpu(r"H(100|200|20)", 450, 90, 8, 8, 400, 63),
    _Gpu(r"A800", 200, 80, 8, 8, 200),
    _Gpu(r"A100.*PCIE", 0, 80, 8, 8, 200),
    _Gpu(r"A100", 300, 80, 8, 8, 200),
    _Gpu(r"V100", 150, 70, 8, 8, 100, 15.75),
    _Gpu(r"RTX PRO 6000|RTX 6000D", 0, 120, 8, 8, 400, 63),
    _Gpu(r"L40|L4\b|RTX (5880|4090)", 0, 89, 8, 8, 100, 31.5),
    _Gpu(r"A10\b|A10G|A40", 0, 86, 8, 8, 100, 31.5),
    _Gpu(r"MI35\d", 537, None, 8, 8, 400, 63),
    _Gpu(r"MI3\d\d", 448, None, 8, 8, 400, 63),
    _Gpu(r"MI2\d\d", 350, None, 8, 8, 200),
)
_OTHER = _Gpu("", 0, 80, 8, 8, 100)


@dataclass(frozen=True)
class Row:
    """One measured size, out of place."""

    size_bytes: int
    seconds: float


@dataclass(frozen=True)
class Table:
    """One table: what was played on which links, and what it took."""

    name: str
    cluster: str
    fabric: str
    kind: str
    reach: Reach
    algorithm: str | None
    protocol: str | None
    rows: tuple[Row, ...]
    troubled: bool
    """Whether its publisher reports it as a problem: scored, never fitted."""


def read_tables(path: Path) -> tuple[Table, ...]:
    """The tables of a file. SpecError names the table and what is wrong with it."""
    document = yaml.safe_load(path.read_text())
    if not isinstance(document, dict) or not isinstance(document.get("tables"), list):
        raise SpecError(f"{path}: a mapping with a list `tables`")
    return tuple(_table(entry) for entry in document["tables"])


def _table(entry: dict[str, Any]) -> Table:
    try:
        algorithm, protocol = _settings(str(entry.get("algo") or ""))
        return Table(
            name=str(entry["id"]),
            cluster=str(entry["cluster"]),
            fabric=str(entry["fabric"]),
            kind=KINDS.get(entry["collective"], entry["collective"]),
            reach=_reach(entry),
            algorithm=algorithm,
            protocol=protocol,
            rows=tuple(_rows(entry["rows"])),
            troubled="problem" in str(entry.get("note", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SpecError(f"table {entry.get('id', '?')}: {error!r}") from None


def _rows(rows: list[dict[str, Any]]) -> Iterator[Row]:
    for row in rows:
        if (seconds := float(row["time_us"]) / 1e6) > 0 and (size := int(row["bytes"])) > 0:
            yield Row(size, seconds)


def _settings(text: str) -> tuple[str | None, str | None]:
    """A forced algorithm and protocol: NCCL_ALGO=Ring, NCCL_PROTO=Simple, SHARP."""
    names = {"nvlstree": "nvls_tree", "collnetdirect": "collnet", "collnetchain": "collnet"}
    protocols = {"ll": "LL", "ll128": "LL128", "simple": "Simple"}
    algorithm = re.search(r"NCCL_ALGO=(\w+)\b(?!,)", text)
    protocol = re.search(r"NCCL_PROTO=(\w+)\b(?!,)", text)
    name = algorithm[1].lower() if algorithm else "collnet" if "SHARP" in text else None
    return names.get(name or "", name), protocols.get(protocol[1].lower()) if protocol else None


def _reach(entry: dict[str, Any]) -> Reach:
    hardware, nics = str(entry["hardware"]), str(entry["nics"])
    gpu = next((known for known in _GPUS if re.search(known.pattern, hardware, re.IGNORECASE)), _OTHER)
    ranks, nodes, fabric = int(entry["n_gpus"]), int(entry["n_nodes"]), str(entry["fabric"])
    per_node = ranks / nodes
    gpus = max(gpu.gpus, round(per_node)) if "4/node" not in hardware else 4
    domains = nodes if gpu.domain <= 8 else -(-ranks // gpu.domain)
    if fabric in ("nvlink", "nvl72", "pcie"):
        domains = 1
    per_domain = ranks / domains
    count, gbps = _nics(nics, gpus, gpu.nic_gbps)
    merged = min(count, gpus)  # several NICs of a GPU act as one
    usable = max(1, round(merged * per_domain / gpus))
    pcie_only = gpu.nvlink_gbps == 0 or fabric == "pcie"
    return Reach(
        ranks=ranks,
        domains=domains,
        nvlink_bytes_per_s=0.0 if pcie_only else gpu.nvlink_gbps * _GIGA,
        nics=usable,
        nic_bytes_per_s=gbps / 8 * count / merged * _GIGA,
        fabric={"nvl72": "nvlink", "nvlink": "ib"}.get(fabric, fabric),
        compute_capability=gpu.compute_capability,
        pcie_bytes_per_s=gpu.pcie_gbps * _GIGA,
        nic_is_close=merged * 2 >= gpus,
    )


def _nics(text: str, gpus: int, usual: float) -> tuple[int, float]:
    """NICs of a node and their Gb/s: "8x400G IB", "800G/GPU", "4 x 100 Gb/s EFA"; else one usual NIC for each GPU."""
    if found := re.search(r"(\d+)\s*x\s*(\d+)\s*G", text, re.IGNORECASE):
        return int(found[1]), float(found[2])
    if found := re.search(r"(\d+)\D{1,12}NICs?\b.*?(\d+)\s*Gb/s a node", text, re.IGNORECASE):
        return int(found[1]), float(found[2]) / int(found[1])
    if found := re.search(r"(\d+)\s*G", text, re.IGNORECASE):
        return gpus, float(found[1])
    return gpus, usual
