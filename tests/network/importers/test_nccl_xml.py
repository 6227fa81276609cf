"""NCCL's XML: a printer of our own writes both kinds of file, the reader reads them, and refuses what is not right."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.errors import LayoutError, SpecError
from parsim.network.importers.imported import (
    NVSWITCH,
    NvLink,
    host_bytes_per_s,
    node_values,
    nvlink_bytes_per_s,
    pcie_bytes_per_s,
)
from parsim.network.importers.imported_network import network, supplied
from parsim.network.importers.nccl_graph import is_nccl_graph, read_nccl_graphs
from parsim.network.importers.nccl_xml import is_nccl_xml, read_nccl_xml
from parsim.network.importers.xml_reader import read_xml

X16 = 'link_speed="32.0 GT/s PCIe" link_width="16"'


def dump(
    gpus: int = 8,
    sm: int = 90,
    links: int = 18,
    switches: int = 4,
    link: str = X16,
    cpu: str = 'arch="x86_64" vendor="GenuineIntel" familyid="6" modelid="143"',
    tags: bool = True,
    speed: str = "400000",
) -> str:
    """A node of two CPUs with a PCIe switch for each GPU and NIC; `tags` is a live dump, without it a vendor's file."""
    lines = ['<system version="1">']
    for numa in range(2):
        lines.append(f'<cpu numaid="{numa}" affinity="ff" {cpu}>')
        for gpu in range(numa * gpus // 2, (numa + 1) * gpus // 2):
            lines.append(f'<pci busid="0000:{0x10 + gpu:02x}:00.0" class="0x060400" {link}>')
            lines.append(f'<pci busid="0000:{0x40 + gpu:02x}:00.0" class="0x030200" {link}>')
            if tags:
                lines.append(f'<gpu dev="{gpu}" sm="{sm}" rank="{gpu}" gdr="1">')
                share, more = divmod(links, switches)
                for switch in range(switches):
                    count = share + (switch < more)
                    lines.append(f'<nvlink target="0000:0{switch}:00.0" count="{count}" tclass="0x068000"/>')
                lines.append("</gpu>")
            lines.append(f'</pci><pci busid="0000:{0x80 + gpu:02x}:00.0" class="0x020700" {link}>')
            if tags:
                lines.append(
                    f'<nic><net name="mlx5_{gpu}" dev="{gpu}" speed="{speed}" port="1" latency="0.0" guid="0x{gpu}"'
                    ' maxconn="131072" gdr="1"/></nic>'
                )
            lines.append("</pci></pci>")
        lines.append("</cpu>")
    return "\n".join([*lines, "</system>"])


@pytest.mark.parametrize(
    ("sm", "links", "rate", "face"), [(80, 12, 240, 300), (90, 18, 370.8, 450), (100, 18, 721.8, 900)]
)
def test_a_live_dump(sm: int, links: int, rate: float, face: float) -> None:
    node = read_nccl_xml(dump(sm=sm, links=links))
    values = node_values(node)
    assert (values.gpus, values.nics, values.nvlink_domain, values.sm) == (8, 8, 8, sm)
    assert values.nvlink_bytes_per_s == pytest.approx(rate * 1e9)
    assert values.nvlink_nominal_bytes_per_s == pytest.approx(face * 1e9)
    assert values.nic_bytes_per_s == pytest.approx(50e9)
    assert values.pcie_bytes_per_s == pytest.approx(48e9)
    assert node.notes == ()
    assert all(gpu.nvlinks == (NvLink(NVSWITCH, links),) for gpu in node.gpus)
    assert node.closeness(node.gpus[0].name, node.nics[0].name) == "PIX"
    assert node.closeness(node.gpus[0].name, node.nics[1].name) == "PHB"
    assert node.closeness(node.gpus[0].name, node.nics[7].name) == "SYS"
    assert node.nearest_nics(node.gpus[3].name) == (node.nics[3].name,)


def test_a_vendors_file_leaves_nvlink_and_nic_speed_open() -> None:
    node = read_nccl_xml(dump(tags=False))
    values = node_values(node)
    assert (values.nvlink_bytes_per_s, values.nvlink_domain, values.nic_bytes_per_s) == (None, None, None)
    assert values.pcie_bytes_per_s == pytest.approx(48e9)
    assert any("NVLinks are not in the file" in note for note in node.notes)
    known = supplied(node, sm=90, nvlinks=18, nic_bytes_per_s=50e9)
    assert node_values(known)[:6] == node_values(read_nccl_xml(dump()))[:6]


def test_what_a_file_tells_is_not_overruled() -> None:
    node = supplied(read_nccl_xml(dump()), sm=80, nvlinks=2, nic_bytes_per_s=1.0)
    assert node_values(node) == node_values(read_nccl_xml(dump()))
    with pytest.raises(LayoutError, match="nvlinks -1"):
        supplied(node, nvlinks=-1)


@pytest.mark.parametrize(
    ("speed", "width", "gigabytes"),
    [
        ("2.5 GT/s", "16", 3.0),
        ("5 GT/s", "16", 6.0),
        ("5.0 GT/s PCIe", "8", 3.0),
        ("8 GT/s", "16", 12.0),
        ("8.0 GT/s PCIe", "16", 12.0),
        ("16 GT/s", "16", 24.0),
        ("16.0 GT/s PCIe", "8", 12.0),
        ("32.0 GT/s PCIe", "16", 48.0),
        ("64.0 GT/s PCIe", "16", 96.0),
        ("32.0 GT/s PCIe", "0", 48.0),
        ("", "0", 12.0),
        ("Unknown speed", "255", 12.0),
    ],
)
def test_pcie_rates_are_those_of_nccl(speed: str, width: str, gigabytes: float) -> None:
    node = read_nccl_xml(dump(link=f'link_speed="{speed}" link_width="{width}"'))
    assert node_values(node).pcie_bytes_per_s == pytest.approx(gigabytes * 1e9)
    unsure = not speed[:1].isdigit() or width in ("0", "255")
    assert any("assumed for" in note for note in node.notes) == unsure


def test_missing_link_attributes_are_the_default() -> None:
    node = read_nccl_xml(dump(link=""))
    assert node_values(node).pcie_bytes_per_s == pcie_bytes_per_s(None, None) == pytest.approx(12e9)


@pytest.mark.parametrize(
    ("vendor", "family", "model", "arch", "gigabytes"),
    [
        ("GenuineIntel", 6, 63, "x86_64", 6),
        ("GenuineIntel", 6, 85, "x86_64", 10),
        ("GenuineIntel", 6, 143, "x86_64", 22),
        ("GenuineIntel", 6, 207, "x86_64", 40),
        ("AuthenticAMD", 175, 1, "x86_64", 16),
        ("", 0, 0, "arm64", 6),
        ("", 0, 0, "ppc64", 32),
        ("Somebody", 6, 207, "x86_64", 6),
    ],
)
def test_links_between_cpus(vendor: str, family: int, model: int, arch: str, gigabytes: float) -> None:
    assert host_bytes_per_s(vendor, family, model, arch)[0] == gigabytes * 1e9
    cpu = f'arch="{arch}" vendor="{vendor}" familyid="{family}" modelid="{model}"'
    assert {host.bytes_per_s for host in read_nccl_xml(dump(cpu=cpu)).hosts} == {gigabytes * 1e9}


@pytest.mark.parametrize(
    ("sm", "rate"), [(None, 20), (60, 18), (70, 20), (75, 20), (80, 20), (86, 12), (89, 20), (90, 20.6), (103, 40.1)]
)
def test_nvlink_rates_are_those_of_nccl(sm: int | None, rate: float) -> None:
    assert nvlink_bytes_per_s(sm) == rate * 1e9
    assert nvlink_bytes_per_s(sm, nominal=True) >= rate * 1e9


def test_direct_links_between_gpus_and_to_itself() -> None:
    text = dump(gpus=4, links=0, switches=1)
    link = '<nvlink target="{}" count="{}" tclass="0x030200"/>'
    for one, other, count in ((0, 1, 2), (1, 0, 2), (2, 3, 2), (3, 2, 2), (0, 0, 12), (1, 9, 4)):
        text = text.replace(
            f'<gpu dev="{one}" sm="90" rank="{one}" gdr="1">',
            f'<gpu dev="{one}" sm="90" rank="{one}" gdr="1">' + link.format(f"0000:{0x40 + other:02X}:00.0", count),
        )
    node = read_nccl_xml(text)
    assert node.gpus[0].nvlinks == (NvLink(node.gpus[1].name, 2),)
    assert sum("to itself" in note for note in node.notes) == 1
    assert sum("no GPU here" in note for note in node.notes) == 1
    assert node_values(node).nvlink_domain == 2
    built = network(node)
    assert built.domains == (0, 0, 2, 2)


@pytest.mark.parametrize(
    ("gcn", "rate", "face"), [("gfx942", 48, 64), ("942", 48, 64), ("gfx90a", 36, 36), ("906", 24, 24)]
)
def test_xgmi_is_what_amd_gpus_have(gcn: str, rate: float, face: float) -> None:
    text = dump(gpus=4, links=0, switches=1)
    for one in range(4):
        links = "".join(
            f'<xgmi target="0000:{0x40 + other:02x}:00.0" count="1" tclass="0x038000"/>'
            for other in range(4)
            if other != one
        )
        tag = f'<gpu dev="{one}" sm="90" rank="{one}" gdr="1">'
        text = text.replace(tag, tag.replace('sm="90"', f'sm="90" gcn="{gcn}"') + links)
    node = read_nccl_xml(text.replace("0x030200", "0x038000"))
    values = node_values(node)
    assert (values.nvlink_domain, values.sm) == (4, None)
    assert values.nvlink_bytes_per_s == pytest.approx(3 * rate * 1e9)
    assert values.nvlink_nominal_bytes_per_s == pytest.approx(3 * face * 1e9)
    assert network(node).graph.edges["n0.gpu0", "n0.gpu3"]["bytes_per_s"] == pytest.approx(rate * 1e9)


def test_gpus_are_in_the_order_of_ranks() -> None:
    text = dump(gpus=2).replace('rank="0"', 'rank="7"').replace('rank="1"', 'rank="3"')
    assert [gpu.rank for gpu in read_nccl_xml(text).gpus] == [3, 7]


def test_a_socket_card_under_every_cpu_is_one() -> None:
    nic = (
        '<nic><net name="eth0" dev="0" speed="100000" port="0" latency="0.0" guid="0x0" maxconn="65536" gdr="0"/></nic>'
    )
    text = dump(tags=False).replace("</cpu>", f"{nic}</cpu>").replace('class="0x020700"', 'class="0x010802"')
    node = read_nccl_xml(text)
    assert [nic.name for nic in node.nics] == ["eth0"]
    assert network(node, nodes=2).leaf_of(0) == ("leaf0",)


def test_two_ports_of_one_card() -> None:
    net = '<net name="mlx5_0" dev="9" speed="100000" port="2" latency="0.0" guid="0x0" maxconn="1" gdr="1"/>'
    node = read_nccl_xml(dump().replace("</nic>", net + "</nic>", 1))
    assert [nic.name for nic in node.nics[:3]] == ["mlx5_0", "mlx5_0:2", "mlx5_1"]
    assert node_values(node).nic_bytes_per_s == pytest.approx(12.5e9)


def test_a_dump_of_several_machines() -> None:
    one = dump(gpus=4, links=18, switches=1)
    inner = one.split("\n", 1)[1].rsplit("\n", 1)[0]
    second = inner
    for rank in range(4):
        second = second.replace(f'rank="{rank}"', f'rank="{rank + 4}"')
    first, second = (text.replace("<cpu ", f'<cpu host_hash="{name}" ') for name, text in (("a", inner), ("b", second)))
    node = read_nccl_xml(f'<system version="2">{first}{second}</system>')
    assert (node.machines, len(node.gpus), node_values(node).nvlink_domain) == (2, 8, 8)
    built = network(node)
    assert [built.node_of(rank) for rank in range(8)] == [0] * 4 + [1] * 4
    assert len({built.domain_of(rank) for rank in range(8)}) == 1


def test_unknown_tags_are_counted() -> None:
    text = (
        dump()
        .replace("</gpu>", '<c2c bw="400" count="1"/><c2c bw="1" count="1"/></gpu>')
        .replace("</cpu>", "<x/></cpu>")
    )
    assert {"<c2c> passed over, 16 times", "<x> passed over, 2 times"} <= set(read_nccl_xml(text).notes)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('busid="0000:41:00.0"', 'busid="0000:40:00.0"', r"line 15: 0000:40:00.0 stands twice, first at line 4"),
        ('busid="0000:40:00.0"', "", r"line 4: <pci> has no busid"),
        ('busid="0000:40:00.0"', 'busid="gpu zero"', "is not like 0000:18:00.0"),
        ('rank="3"', 'rank="2"', "rank 2 is on two GPUs"),
        ('count="5"', 'count="many"', r"<nvlink> count='many' is not a whole number"),
        ('count="5"', 'count="-5"', "must be at least 0"),
        ('count="5"', 'count="1e9"', "is not a whole number"),
        ('count="5"', 'count="999999999"', "a GPU has at most 36"),
        ('count="5"', "", "<nvlink> has no count"),
        ('speed="400000"', 'speed="fast"', r"<net> speed='fast' is not a number"),
        ('speed="400000"', 'speed="-1"', "at least 0"),
        ('speed="400000"', 'speed="1e400"', "is not a number|finite"),
        ('sm="90"', 'sm="hopper"', "is not a whole number"),
        ("32.0 GT/s PCIe", "fast", "link_speed 'fast' is not like '32.0 GT/s PCIe'"),
        ('link_width="16"', 'link_width="x"', "link_width='x' is not a whole number"),
        ('numaid="0"', 'numaid="zero"', "is not a whole number"),
        ('numaid="1"', 'numaid="0"', "cpu0 stands twice"),
        ('name="mlx5_1"', 'name="mlx5_0"', "mlx5_0:1 stands twice"),
        ("<cpu numaid", "<cqu numaid", "mismatched tag at line"),
        ("0x030200", "0x010802", None),
    ],
)
def test_what_is_wrong_is_one_clear_line(old: str, new: str, message: str | None) -> None:
    text = dump(tags="0x03" not in old).replace(old, new) if "0x03" in old else dump().replace(old, new, 1)
    with pytest.raises(SpecError, match=message or "no GPU") as caught:
        read_nccl_xml(text)
    assert "\n" not in str(caught.value)


def test_pci_devices_without_a_class_are_told() -> None:
    text = '<system version="1"><cpu numaid="0"><pci busid="0000:00:16.0"/><pci busid="0000:00:17.0"/></cpu></system>'
    with pytest.raises(SpecError, match="2 <pci> have no class"):
        read_nccl_xml(text)


BOMB = """<?xml version="1.0"?>
<!DOCTYPE system [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<system version="&b;"/>"""
OUTSIDE = '<!DOCTYPE system SYSTEM "file:///etc/passwd"><system/>'
ENTITY = '<!DOCTYPE system [<!ENTITY x SYSTEM "file:///etc/passwd">]><system>&x;</system>'


@pytest.mark.parametrize("text", [BOMB, OUTSIDE, ENTITY])
@pytest.mark.parametrize("read", [read_nccl_xml, read_nccl_graphs])
def test_entities_and_document_types_are_refused(text: str, read: object) -> None:
    with pytest.raises(SpecError, match=r"line \d+: a document type or entity is not read"):
        read(text)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no XML element at line 1, column 1"),
        ("hello", "not XML: .* at line 1, column 1"),
        ("<system", "not XML: .* at line 1"),
        ("<system>&nbsp;</system>", "undefined entity at line 1, column 9"),
        ("<system a='1' a='2'/>", "duplicate attribute at line 1"),
        ("<graphs/>", "the root is <graphs>, not <system>"),
        ("<system>\x00</system>", "not XML"),
        ("<system>\ud800</system>", "surrogate"),
        ("<system/><system/>", "junk after document element"),
        ("<system>" + "<pci>" * 100_000, "nested deeper than 64 elements"),
        ("<system>" + "<pci/>" * 200_001 + "</system>", "more than 200000 elements"),
        ("<system>" + " " * (17 * 2**20) + "</system>", "at most 16 MiB"),
    ],
)
def test_xml_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        read_nccl_xml(text)
    assert "\n" not in str(caught.value)


def test_a_file_cut_anywhere_says_where() -> None:
    text = dump(gpus=2)
    for end in range(1, len(text) - 1, 13):
        with pytest.raises(SpecError, match=r"line \d+, column \d+") as caught:
            read_nccl_xml(text[:end])
        assert "\n" not in str(caught.value)


@given(st.text(max_size=60), st.integers(0, 3000), st.integers(0, 60))
def test_any_damage_is_read_or_refused_in_one_line(junk: str, start: int, length: int) -> None:
    text = dump(gpus=4)
    refused = ""
    try:
        node = read_nccl_xml(text[:start] + junk + text[start + length :])
        network(node)
    except (SpecError, LayoutError) as error:
        refused = str(error)
    assert "\n" not in refused


@pytest.mark.parametrize("nodes", [1, 2, 16])
def test_the_network_routes(nodes: int) -> None:
    built = network(read_nccl_xml(dump()), nodes=nodes)
    assert len(built.gpus) == 8 * nodes
    kinds = {edge["kind"] for _, _, edge in built.graph.edges(data=True)}
    assert kinds == {"nvlink", "pcie", "cpu"} | ({"nic"} if nodes > 1 else set())
    gpu, switch = "n0.gpu0", "nvswitch0"
    assert built.graph.edges[gpu, switch]["bytes_per_s"] == pytest.approx(370.8e9)
    assert built.nics[5] == ("n0.nic5",)
    assert built.graph.nodes["n0.nic5"]["label"] == "mlx5_5"
    if nodes > 1:
        assert built.graph.edges["n0.nic5", "leaf0"]["bytes_per_s"] == pytest.approx(50e9)
    hop = 2 * built.graph.edges[gpu, switch]["latency_s"]
    assert hop == pytest.approx(5.9e-6)


def test_more_nodes_than_can_be() -> None:
    node = read_nccl_xml(dump(tags=False).replace('class="0x020700"', 'class="0x010802"'))
    with pytest.raises(LayoutError, match="has no NIC, so 1 node"):
        network(node, nodes=2)
    with pytest.raises(LayoutError, match="nodes 0"):
        network(node, nodes=0)


def test_files_are_recognised() -> None:
    assert is_nccl_xml("<!-- words -->\n" + dump())
    assert not is_nccl_xml(GRAPHS)
    assert is_nccl_graph(GRAPHS)
    assert not is_nccl_graph(dump())


GRAPHS = """<graphs version="1">
  <graph id="0" pattern="4" crossnic="0" nchannels="2" speedintra="20" speedinter="12" latencyinter="1.5"
         typeintra="NVL" typeinter="PIX" samechannels="1">
    <channel><net dev="3"/><gpu dev="0"/><gpu dev="2"/><gpu dev="1"/><net dev="3"/></channel>
  </graph>
  <graph id="3" pattern="5" nchannels="16" speedintra="22.5" speedinter="" typeintra="NVL" typeinter="PXB">
    <channel><gpu rank="4"/><net id="1-a0"/></channel>
  </graph>
</graphs>"""


def test_searched_graphs() -> None:
    ring, nvls = read_nccl_graphs(GRAPHS)
    assert (ring.algorithm, ring.pattern, ring.nchannels, ring.same_channels) == ("ring", "ring", 2, True)
    assert ring.bus_bytes_per_s == pytest.approx(40e9)
    assert ring.inter_bytes_per_s == pytest.approx(24e9)
    assert ring.latency_inter_s == pytest.approx(1.5e-6)
    assert [f"{step.kind}{step.device}" for step in ring.channels[0]] == ["net3", "gpu0", "gpu2", "gpu1", "net3"]
    assert (nvls.algorithm, nvls.pattern, nvls.type_inter) == ("nvls", "nvls", "PXB")
    assert nvls.bus_bytes_per_s == pytest.approx(360e9)
    assert [(step.kind, step.device) for step in nvls.channels[0]] == [("gpu", 4), ("net", 0xA0)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('nchannels="2"', "", "line 2: <graph> has no nchannels"),
        ('nchannels="2"', 'nchannels="-2"', "must be at least 0"),
        ('nchannels="2"', 'nchannels="0"', "1 <channel> of nchannels 0"),
        ('nchannels="2"', 'nchannels="5000"', "at most 1024"),
        ('speedintra="20"', 'speedintra="nan"', "is not a number"),
        ('typeintra="NVL"', 'typeintra="WIRE"', "typeintra 'WIRE' is not one of"),
        ('id="3"', 'id="0"', "graph id 0 stands twice"),
        ('dev="2"', 'dev="two"', "<gpu> dev='two' is not a whole number"),
        ("<graphs version", "<graph version", "mismatched tag"),
    ],
)
def test_graphs_that_are_wrong(old: str, new: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read_nccl_graphs(GRAPHS.replace(old, new, 1))


def test_no_graph() -> None:
    with pytest.raises(SpecError, match="no graph"):
        read_nccl_graphs("<graphs/>")


def test_the_reader_keeps_lines(tmp_path: Path) -> None:
    root = read_xml("\ufeff<!-- a -->\n<graphs>\n<graph id='1'/>\n</graphs>", "graphs")
    assert [child.line for child in root.children] == [3]
