"""The network of an imported node: its devices and links as a graph that routes, flows and pictures are made from.

    GPU - NVSwitch, or GPU - GPU     count * rate of an NVLink        nvlink_latency_s / 2, whole between GPUs
    GPU, NIC, switch - its parent    effective PCIe rate              see below
    host - host                      what NCCL gives CPUs             0, all pairs of a machine
    NIC - switch of the fabric       the NIC's speed                  nic_latency_s / 2 - h, only with several nodes

A file knows rates, not latencies: the hops of the bundled nodes are taken, split as parsim.network.build.node does it,
with h = min(nvlink_latency_s / 2, nic_latency_s / 4) on a GPU's PCIe link and the rest where a host is entered. Several
nodes alike are joined by one switch that does not block. Names are n0.gpu0, n0.nic0, ... as in built networks; the
name in the file is the attribute `label`.
"""

from dataclasses import replace
from typing import Any

from parsim.errors import LayoutError
from parsim.network.graph import Link, Network, both_ways
from parsim.network.importers.imported import NVSWITCH, ImportedNode, NvLink

__all__ = ["network", "supplied"]

_NVLINK_LATENCY_S, _NIC_LATENCY_S = 5.9e-6, 4.5e-6
"""A hop as a collective sees it: the bundled nodes' values, fitted to published training runs."""

_MOST_NODES = 4096


def supplied(
    imported: ImportedNode,
    *,
    sm: int | None = None,
    nvlinks: int | None = None,
    nic_bytes_per_s: float | None = None,
) -> ImportedNode:
    """The node with what its file is silent about: NVLinks of a GPU to the NVSwitches, the speed of NICs. What the
    file tells stays. LayoutError: a number that is not above 0.
    """
    for name, value in (("sm", sm), ("nvlinks", nvlinks), ("nic_bytes_per_s", nic_bytes_per_s)):
        if value is not None and not 0 < value < 1e15:
            raise LayoutError(f"{name} {value:g}: above 0 and finite is needed")
    gpus = tuple(
        replace(
            gpu,
            sm=gpu.sm or sm,
            nvlinks=(NvLink(NVSWITCH, nvlinks),) if gpu.nvlinks is None and nvlinks is not None else gpu.nvlinks,
        )
        for gpu in imported.gpus
    )
    nics = tuple(replace(nic, bytes_per_s=nic.bytes_per_s or nic_bytes_per_s) for nic in imported.nics)
    notes = list(imported.notes)
    if gpus != imported.gpus:
        notes.append("given, not of the file: NVLinks or compute capability of GPUs")
    if nics != imported.nics and nic_bytes_per_s is not None:
        notes.append(f"given, not of the file: NICs of {nic_bytes_per_s / 1e9:g} GB/s")
    return replace(imported, gpus=gpus, nics=nics, notes=tuple(notes))


def network(
    imported: ImportedNode,
    *,
    nodes: int = 1,
    name: str = "imported",
    nvlink_latency_s: float = _NVLINK_LATENCY_S,
    nic_latency_s: float = _NIC_LATENCY_S,
) -> Network:
    """The network of `nodes` nodes like the imported one; rank r is its GPU r % gpus in node r // gpus.

    Raises LayoutError: fewer than one node, several nodes without a NIC, devices that nothing joins.
    """
    if not 1 <= nodes <= _MOST_NODES:
        raise LayoutError(f"nodes {nodes}: 1 to {_MOST_NODES} nodes like {name} can be joined")
    if nodes > 1 and not imported.nics:
        raise LayoutError(f"nodes {nodes}: {name} has no NIC, so 1 node is all there is")
    building = _Building(imported, nvlink_latency_s, nic_latency_s)
    for node in range(nodes):
        building.add_node(node)
    if nodes > 1:
        building.add_fabric(nodes)
    notes = (*imported.notes, *building.notes)
    return Network.of(name, building.devices, building.links, notes, topology="imported")


class _Building:
    def __init__(self, imported: ImportedNode, nvlink_latency_s: float, nic_latency_s: float) -> None:
        self.imported = imported
        self.near = min(nvlink_latency_s / 2, nic_latency_s / 4)
        self.half, self.nic_half = nvlink_latency_s / 2, nic_latency_s / 2 - self.near
        self.devices: dict[str, dict[str, Any]] = {}
        self.links: list[Link] = []
        self.notes: list[str] = []
        self.hosts = {host.name for host in imported.hosts}
        self.short = {gpu.name: f"gpu{index}" for index, gpu in enumerate(imported.gpus)}
        self.short |= {nic.name: f"nic{index}" for index, nic in enumerate(imported.nics)}
        self.short |= {switch.name: f"pcie{index}" for index, switch in enumerate(imported.switches)}
        self.short |= {host.name: f"host{index}" for index, host in enumerate(imported.hosts)}

    def add_node(self, node: int) -> None:
        names = {name: f"n{node}.{short}" for name, short in self.short.items()}
        node_of = {host.name: node * self.imported.machines + host.machine for host in self.imported.hosts}
        for host in self.imported.hosts:
            self.devices[names[host.name]] = {"kind": "host", "node": node_of[host.name], "label": host.name}
        for switch in self.imported.switches:
            self._add(names[switch.name], "pcie", switch.name, node_of)
            self._join(names, switch.name, switch.parent, switch.bytes_per_s, self.half - self.near, 0.0)
        for place, nic in enumerate(self.imported.nics):
            self._add(names[nic.name], "nic", nic.name, node_of, place=place, count=1)
            self._join(names, nic.name, nic.parent, nic.pcie_bytes_per_s, 0.0, 0.0)
        for place, gpu in enumerate(self.imported.gpus):
            rank = node * len(self.imported.gpus) + place
            self._add(names[gpu.name], "gpu", gpu.name, node_of, rank=rank)
            self._join(names, gpu.name, gpu.parent, gpu.pcie_bytes_per_s, self.half, self.near)
        self._join_hosts(names)
        self._join_nvlinks(names, node)

    def _add(self, name: str, kind: str, label: str, node_of: dict[str, int], **about: Any) -> None:
        home = self.imported.ancestors(label)[-1]
        self.devices[name] = {"kind": kind, "node": node_of.get(home, 0), "label": label, **about}

    def _join(self, names: dict[str, str], one: str, parent: str, rate: float, above: float, inside: float) -> None:
        latency = above if parent in self.hosts else inside
        self.links += both_ways(names[one], names[parent], rate, latency, "pcie")

    def _join_hosts(self, names: dict[str, str]) -> None:
        hosts = self.imported.hosts
        for index, one in enumerate(hosts):
            for other in hosts[index + 1 :]:
                if one.machine == other.machine:
                    rate = min(one.bytes_per_s, other.bytes_per_s)
                    self.links += both_ways(names[one.name], names[other.name], rate, 0.0, "cpu")

    def _join_nvlinks(self, names: dict[str, str], node: int) -> None:
        switch = f"nvswitch{node}"
        direct: dict[tuple[str, str], int] = {}
        for gpu in self.imported.gpus:
            for link in gpu.nvlinks or ():
                rate = link.count * gpu.link_bytes_per_s()
                if link.target == NVSWITCH:
                    self.devices.setdefault(switch, {"kind": "nvswitch", "label": "NVSwitches", "domain": node})
                    self.links += both_ways(names[gpu.name], switch, rate, self.half, "nvlink")
                elif (link.target, gpu.name) in direct:
                    if direct[link.target, gpu.name] != link.count:
                        self.notes.append(f"NVLinks of {gpu.name} and {link.target} differ by direction")
                else:
                    direct[gpu.name, link.target] = link.count
                    ends = names[gpu.name], names[link.target]
                    self.links += both_ways(*ends, rate, 2 * self.half, "nvlink")

    def add_fabric(self, nodes: int) -> None:
        self.devices["leaf0"] = {"kind": "leaf", "tier": 0, "group": 0}
        silent = 0
        for node in range(nodes):
            for nic in self.imported.nics:
                silent += nic.bytes_per_s is None
                rate = nic.bytes_per_s or nic.pcie_bytes_per_s
                self.links += both_ways(f"n{node}.{self.short[nic.name]}", "leaf0", rate, self.nic_half, "nic")
        self.notes.append(f"{nodes} nodes alike are joined by one switch that does not block")
        if silent:
            self.notes.append(f"{silent} NICs without a speed are as fast as their PCIe link")
