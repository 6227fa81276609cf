"""NCCL's topology XML, both kinds: the vendors' files for virtual machines, and dumps of a live machine.

    <system version="1">
      <cpu numaid="0" arch="x86_64" vendor="GenuineIntel" familyid="6" modelid="143">
        <pci busid="0000:16:00.0" class="0x060400" link_speed="32.0 GT/s PCIe" link_width="16">         a switch
          <pci busid="0000:18:00.0" class="0x030200" link_speed="32.0 GT/s PCIe" link_width="16">       a GPU
            <gpu dev="0" sm="90" rank="0" gdr="1"> <nvlink target="..." count="18" tclass="0x068000"/> </gpu>
          </pci>
          <pci busid="0000:19:00.0" class="0x020700" ...>                                               a NIC
            <nic> <net name="mlx5_0" dev="0" speed="400000" port="1" latency="0.0" .../> </nic>

A vendor's file ends at <pci>: NVLinks and NIC speeds are then unknown (None), for NCCL probes them. A dump
(NCCL_TOPO_DUMP_FILE) has them; speed is in Mbit/s, latency in us. All NVSwitches of a node are one, as in NCCL.
Tags that say nothing about links are passed over and counted in the notes.
"""

import re
from collections import Counter
from dataclasses import replace

from parsim.errors import SpecError
from parsim.network.importers.imported import (
    NVSWITCH,
    ImportedGpu,
    ImportedHost,
    ImportedNic,
    ImportedNode,
    ImportedSwitch,
    NvLink,
    host_bytes_per_s,
    pcie_bytes_per_s,
)
from parsim.network.importers.xml_reader import Element, read_xml

__all__ = ["is_nccl_xml", "read_nccl_xml"]

_SPEED = re.compile(r"\s*(\d{1,4}(?:\.\d{1,3})?)\s*GT/s(?:\s+PCIe)?\s*\Z", re.IGNORECASE)
_BUSID = re.compile(r"[0-9a-fA-F]{1,16}:[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,2})?(?:\.[0-9a-fA-F]{1,2})?\Z")
_NVSWITCH_CLASS, _GPU_CLASSES, _NIC_CLASS = "0x0680", ("0x03", "0x12"), "0x02"
_LINK_TAGS = ("nvlink", "xgmi")


def is_nccl_xml(text: str) -> bool:
    """Whether a text is such a file, by its root element."""
    return re.search(r"<system[\s>/]", text[:65536]) is not None


def read_nccl_xml(text: str) -> ImportedNode:
    """The node that a file describes.

    Raises SpecError: not XML (with line and column), no GPU, a busid twice, a missing or senseless attribute.
    """
    system = read_xml(text, "system")
    reader = _Reader()
    for child in system.children:
        if child.tag == "cpu":
            reader.cpu(child)
        elif child.tag == "pci":
            raise SpecError(f"line {child.line}: <pci> hangs from no <cpu>")
        else:
            reader.unknown[child.tag] += 1
    if not reader.gpus:
        silent = sum(1 for switch in reader.switches if switch.name in reader.classless)
        why = f"; {silent} <pci> have no class, which NCCL reads from the machine itself" if silent else ""
        raise SpecError(f"no GPU: the file has no <pci> of class 0x03.... and no <gpu>{why}")
    return reader.result()


class _Reader:
    """What was found so far, and what to say about it."""

    def __init__(self) -> None:
        self.gpus: list[ImportedGpu] = []
        self.nics: list[ImportedNic] = []
        self.switches: list[ImportedSwitch] = []
        self.hosts: list[ImportedHost] = []
        self.machines: dict[str, int] = {}
        self.lines: dict[tuple[int, str], int] = {}
        self.targets: list[tuple[int, list[Element]]] = []
        self.unknown: Counter[str] = Counter()
        self.assumed: Counter[str] = Counter()
        self.classless: set[str] = set()
        self.notes: list[str] = []
        self.ports: set[tuple[int, str, tuple[str, ...]]] = set()

    def cpu(self, cpu: Element) -> None:
        machine = self.machines.setdefault(cpu.attributes.get("host_hash", ""), len(self.machines))
        numa = cpu.integer("numaid", -1)
        rate, model = host_bytes_per_s(
            cpu.attributes.get("vendor", ""),
            cpu.integer("familyid", 0),
            cpu.integer("modelid", 0),
            cpu.attributes.get("arch", ""),
        )
        name = self._named(machine, f"cpu{numa}", cpu)
        if model == "unknown":
            self.assumed["CPU without a known vendor: 6 GB/s to the others"] += 1
        self.hosts.append(ImportedHost(name, machine, None if numa < 0 else numa, rate, model))
        for child in cpu.children:
            if child.tag == "pci":
                self.pci(child, name, machine)
            elif child.tag == "nic":
                self.nic(child, name, machine, None)
            else:
                self.unknown[child.tag] += 1

    def pci(self, pci: Element, parent: str, machine: int) -> None:
        # The reader bounds how deep elements nest, so this recursion is bounded too.
        busid, kind = pci.text("busid").strip().lower(), pci.attributes.get("class", "").lower()
        if not _BUSID.match(busid):
            raise SpecError(f"line {pci.line}: busid {busid[:40]!r} is not like 0000:18:00.0")
        name = self._named(machine, busid, pci)
        rate = self._rate(pci)
        tags = {child.tag for child in pci.children}
        if "gpu" in tags or (kind.startswith(_GPU_CLASSES) and "nic" not in tags):
            self.gpu(pci, name, parent, rate)
        elif "nic" in tags:
            for nic in pci.named("nic"):
                self.nic(nic, parent, machine, (name, rate))
        elif kind.startswith(_NIC_CLASS):
            self.nics.append(ImportedNic(name, parent, rate, None, self.hosts[-1].numa))
        elif kind.startswith(_NVSWITCH_CLASS):
            self.notes.append(f"NVSwitch {name}: all NVSwitches of a node are taken as one")
        else:
            self.switches.append(ImportedSwitch(name, parent, rate))
            if not kind:
                self.classless.add(name)
            for child in pci.named("pci"):
                self.pci(child, name, machine)
            self.unknown.update(tag for tag in (child.tag for child in pci.children) if tag != "pci")

    def gpu(self, pci: Element, name: str, parent: str, rate: float) -> None:
        found = list(pci.named("gpu"))
        self.unknown.update(child.tag for child in pci.children if child.tag != "gpu")
        gpu = found[0] if found else None
        if len(found) > 1:
            self.notes.append(f"GPU {name} has {len(found)} parts or ranks; the first stands for it")
        if gpu is not None:
            self.targets.append((len(self.gpus), [child for child in gpu.children if child.tag in _LINK_TAGS]))
            self.unknown.update(child.tag for child in gpu.children if child.tag not in _LINK_TAGS)
        rank = None if gpu is None else gpu.integer("rank", -1)
        known = rank if rank is not None and rank >= 0 else None
        sm = None if gpu is None else gpu.integer("sm", 0, least=0) or None
        amd = None if gpu is None else gpu.attributes.get("gcn")
        self.gpus.append(
            ImportedGpu(name, parent, rate, known, None if amd is not None else sm, self._numa(), xgmi=amd)
        )

    def nic(self, nic: Element, parent: str, machine: int, card: tuple[str, float] | None) -> None:
        nets = list(nic.named("net"))
        self.unknown.update(child.tag for child in nic.children if child.tag != "net")
        if not nets and card is not None:
            self.nics.append(ImportedNic(card[0], parent, card[1], None, self._numa()))
        for net in nets:
            title = net.text("name").strip()
            key = machine, title, tuple(net.attributes.get(each, "") for each in ("guid", "port", "dev"))
            if key in self.ports:
                continue  # a socket's card is listed under every CPU
            self.ports.add(key)
            speed = net.number("speed", 0.0)
            name = self._named(machine, f"{title}:{net.attributes.get('port', '')}", net)
            if (machine, title) not in self.lines:
                name = self._named(machine, title, net)  # the first port has the card's own name
            if card is None:
                self.assumed["NIC outside the PCIe tree: hangs from its CPU"] += 1
            self.nics.append(
                ImportedNic(
                    name,
                    parent,
                    card[1] if card is not None else pcie_bytes_per_s(None, None),
                    speed * 1e6 / 8 if speed > 0 else None,
                    self._numa(),
                    net.number("latency", 0.0) * 1e-6,
                )
            )

    def _numa(self) -> int | None:
        return self.hosts[-1].numa

    def _named(self, machine: int, name: str, element: Element) -> str:
        if (first := self.lines.get((machine, name))) is not None:
            raise SpecError(f"line {element.line}: {name[:60]} stands twice, first at line {first}")
        self.lines[machine, name] = element.line
        return name if machine == 0 else f"machine{machine}/{name}"

    def _rate(self, pci: Element) -> float:
        speed, width = pci.attributes.get("link_speed", "").strip(), pci.integer("link_width", 0, least=0)
        match = _SPEED.match(speed)
        if speed and match is None and not speed.lower().startswith("unknown"):
            raise SpecError(f"line {pci.line}: link_speed {speed[:40]!r} is not like '32.0 GT/s PCIe'")
        if match is None:
            self.assumed["PCIe link without a speed: generation 3"] += 1
        if width == 0 or width > 64:
            self.assumed["PCIe link without a width: 16 lanes"] += 1
        return pcie_bytes_per_s(float(match[1]) if match else None, width if 0 < width <= 64 else None)

    def result(self) -> ImportedNode:
        for index, links in self.targets:
            self.gpus[index] = replace(self.gpus[index], nvlinks=self._nvlinks(self.gpus[index].name, links))
        dumped = bool(self.targets)
        if not dumped:
            self.notes.append("NVLinks are not in the file: a vendor's file leaves them to NCCL to probe")
        silent = sum(nic.bytes_per_s is None for nic in self.nics)
        if silent:
            self.notes.append(f"{silent} of {len(self.nics)} NICs have no speed in the file")
        self.notes.extend(f"assumed for {count}: {what}" for what, count in self.assumed.items())
        self.notes.extend(f"<{tag[:40]}> passed over, {count} times" for tag, count in sorted(self.unknown.items()))
        ranks = [gpu.rank for gpu in self.gpus]
        known = [rank for rank in ranks if rank is not None]
        if len(set(known)) != len(known):
            raise SpecError(f"rank {next(rank for rank in known if known.count(rank) > 1)} is on two GPUs")
        if len(known) == len(ranks):
            self.gpus.sort(key=lambda gpu: gpu.rank or 0)
        return ImportedNode(
            tuple(self.gpus),
            tuple(self.nics),
            tuple(self.switches),
            tuple(self.hosts),
            "NCCL dump" if dumped else "NCCL topology file",
            tuple(self.notes),
        )

    def _nvlinks(self, name: str, links: list[Element]) -> tuple[NvLink, ...]:
        counts: Counter[str] = Counter()
        prefix, _, own = name.rpartition("/")
        names = {gpu.name for gpu in self.gpus}
        for link in links:
            count = link.integer("count", least=0)
            if count > 1000:
                raise SpecError(f"line {link.line}: {count} NVLinks on one GPU; a GPU has at most 36")
            target, kind = link.text("target").strip().lower(), link.attributes.get("tclass", "").lower()
            full = f"{prefix}/{target}" if prefix else target
            if kind.startswith(_NVSWITCH_CLASS) and not kind.startswith("0x068001"):
                counts[NVSWITCH] += count
            elif target == own:
                self.notes.append(f"GPU {name} lists {count} NVLinks to itself; passed over")
            elif full in names:
                counts[full] += count
            else:
                self.notes.append(
                    f"GPU {name} lists {count} NVLinks to {target[:40]}, which is no GPU here; passed over"
                )
        return tuple(NvLink(target, count) for target, count in counts.items() if count)
