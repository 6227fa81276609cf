"""Nodes: the insides of a cluster's servers, as devices and links.

    GPU - NVSwitch of its domain         NVLink rate of the GPU          nvlink_latency_s / 2
    GPU - PCIe switch                    host link of the GPU            h
    PCIe switch - host bridge            host link of the GPU            nvlink_latency_s / 2 - h
    host bridge - host bridge            twice the host link (assumed)   0
    PCIe switch - NIC                    host link, at least the NIC     0
    NIC - switch of the fabric           the NIC's rate                  nic_latency_s / 2 - h

with h = min(nvlink_latency_s / 2, nic_latency_s / 4), so that GPU to GPU over NVLink, or over PCIe and the hosts where
there is none, takes nvlink_latency_s, and GPU to GPU through one leaf nic_latency_s: what a collective sees as a hop.

Simplified: an NVLink domain has one NVSwitch that stands for all of its own (traffic is striped over them), also where
GPUs are joined pair by pair (MI300X). A node has a PCIe switch for each GPU with NICs of its own, or for each NIC that
GPUs share, on two host bridges. NICs beyond one for each GPU are one device with the sum of their rates. A PCIe link is
never slower than the NICs behind it, since boards whose NICs outrun the GPU's host link give them a path of their own.
"""

from dataclasses import dataclass
from functools import cached_property

from parsim.network.build.parts import Parts
from parsim.spec.node import NodeSpec

__all__ = ["Nodes"]


@dataclass(frozen=True)
class Nodes:
    """`count` nodes alike."""

    spec: NodeSpec
    count: int

    @cached_property
    def nics(self) -> int:
        """NIC devices of a node: at most one for each GPU."""
        return min(self.spec.nics, self.spec.gpus)

    @cached_property
    def nic_bytes_per_s(self) -> float:
        """Rate of a NIC device, one direction."""
        return self.spec.nics * self.spec.nic_bytes_per_s / self.nics

    @property
    def nic_latency_s(self) -> float:
        """From a NIC to its switch."""
        return self.spec.nic_latency_s / 2 - self._gpu_latency_s

    @property
    def _gpu_latency_s(self) -> float:
        return min(self.spec.nvlink_latency_s / 2, self.spec.nic_latency_s / 4)

    def nic(self, node: int, place: int) -> str:
        """The name of a NIC device."""
        return f"n{node}.nic{place}"

    def add_to(self, parts: Parts) -> None:
        """Adds all nodes, and the NVSwitches that join them."""
        spec = self.spec
        if spec.nics > self.nics:
            parts.notes.append(
                f"{spec.nics} NICs of {spec.nic_bytes_per_s:g} bytes/s a node are built as {self.nics} "
                f"of {self.nic_bytes_per_s:g}, one for each GPU"
            )
        for node in range(self.count):
            self._add_node(parts, node)
        if not self._nvlink:
            return
        parts.notes.append("one NVSwitch stands for all of an NVLink domain")
        gpus = self.count * spec.gpus
        for rank in range(gpus):
            domain, first = divmod(rank, spec.nvlink_domain)
            if first == 0:
                parts.add(f"nvswitch{domain}", "nvswitch", domain=domain)
            parts.join(
                f"n{rank // spec.gpus}.gpu{rank % spec.gpus}",
                f"nvswitch{domain}",
                spec.gpu.nvlink_bytes_per_s,
                spec.nvlink_latency_s / 2,
                "nvlink",
            )

    @property
    def _nvlink(self) -> bool:
        return self.spec.nvlink_domain > 1 and self.spec.gpu.nvlink_bytes_per_s > 0

    def _add_node(self, parts: Parts, node: int) -> None:
        spec, nics = self.spec, self.nics
        link = max(spec.gpu.host_link_bytes_per_s, self.nic_bytes_per_s)
        near = self._gpu_latency_s
        hosts = [parts.add(f"n{node}.host{h}", "host", node=node) for h in range(min(nics, 2))]
        if len(hosts) == 2:
            parts.join(hosts[0], hosts[1], 2 * spec.gpu.host_link_bytes_per_s, 0.0, "cpu")
        for place in range(nics):
            switch = parts.add(f"n{node}.pcie{place}", "pcie", node=node)
            host = hosts[place * len(hosts) // nics]
            parts.join(switch, host, spec.gpu.host_link_bytes_per_s, spec.nvlink_latency_s / 2 - near, "pcie")
            parts.add(self.nic(node, place), "nic", node=node, place=place, count=spec.nics / nics)
            parts.join(switch, self.nic(node, place), link, 0.0, "pcie")
        for place in range(spec.gpus):
            rank = node * spec.gpus + place
            domain = rank // spec.nvlink_domain if self._nvlink else rank
            gpu = parts.add(f"n{node}.gpu{place}", "gpu", rank=rank, node=node, domain=domain)
            parts.join(gpu, f"n{node}.pcie{place * nics // spec.gpus}", link, near, "pcie")
