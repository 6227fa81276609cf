"""Tables of nvidia-smi topo -m, printed by a printer of our own: with tabs or columns, NICs, affinities, escapes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.errors import LayoutError, SpecError
from parsim.network.importers.imported import NVSWITCH, ImportedNode, NvLink, node_values
from parsim.network.importers.imported_network import network
from parsim.network.importers.smi_topology import is_smi_topology, read_smi_topology

LEGEND = """
Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)
  NV#  = Connection traversing a bonded set of # NVLinks
"""


def table(
    cells: dict[tuple[str, str], str],
    gpus: int,
    nics: list[str],
    *,
    numa: list[int] | None = None,
    separator: str = "\t",
    underline: bool = True,
    affinity: bool = True,
) -> str:
    """The text of a table; cells of pairs that are not given are SYS."""
    names = [f"GPU{gpu}" for gpu in range(gpus)] + nics
    columns = (["CPU Affinity"] if affinity else []) + (["NUMA Affinity", "GPU NUMA ID"] if numa is not None else [])
    head = separator.join(["", *names, *columns])
    lines = [f"\x1b[4m{head}\x1b[0m" if underline else head]
    for one in names:
        row = [one]
        for other in names:
            row.append(" X " if one == other else cells.get((one, other)) or cells.get((other, one)) or "SYS")
        if one.startswith("GPU") and affinity:
            row.append("0-23,96-119")
            if numa is not None:
                row += [str(numa[int(one[3:])]), "", "N/A"]
        lines.append(separator.join(row))
    legend = "\nNIC Legend:\n\n" + "\n".join(f"  {nic}: mlx5_{nic[3:]}" for nic in nics if nic.startswith("NIC"))
    return "\n".join(lines) + "\n" + LEGEND + legend + "\n"


def pairs(gpus: int, word: str) -> dict[tuple[str, str], str]:
    return {(f"GPU{one}", f"GPU{other}"): word for one in range(gpus) for other in range(one)}


def hgx(word: str = "NV18", **options: object) -> str:
    """Eight GPUs, a NIC below the same switch as each, two hosts."""
    cells = pairs(8, word)
    for gpu in range(8):
        for nic in range(8):
            near = "PIX" if gpu == nic else "NODE" if gpu // 4 == nic // 4 else "SYS"
            cells[f"GPU{gpu}", f"NIC{nic}"] = near
            if gpu != nic and gpu // 4 == nic // 4:
                cells[f"NIC{gpu}", f"NIC{nic}"] = "NODE"
    return table(cells, 8, [f"NIC{nic}" for nic in range(8)], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("separator", ["\t", "    "])
@pytest.mark.parametrize("underline", [True, False])
@pytest.mark.parametrize("numa", [None, [0, 0, 0, 0, 1, 1, 1, 1]])
def test_a_node_with_nvswitches(separator: str, underline: bool, numa: list[int] | None) -> None:
    node = read_smi_topology(hgx(separator=separator, underline=underline, numa=numa), nic_bytes_per_s=50e9)
    assert all(gpu.nvlinks == (NvLink(NVSWITCH, 18),) for gpu in node.gpus)
    assert [nic.name for nic in node.nics] == [f"mlx5_{index}" for index in range(8)]
    assert node_values(node)[:5] == (8, 8, 50e9, 8, pytest.approx(370.8e9))
    for gpu in range(8):
        assert node.nearest_nics(f"GPU{gpu}") == (f"mlx5_{gpu}",)
        assert node.closeness(f"GPU{gpu}", f"mlx5_{gpu}") == "PIX"
        assert node.closeness(f"GPU{gpu}", f"mlx5_{(gpu + 4) % 8}") == "SYS"
        assert node.closeness(f"GPU{gpu}", f"mlx5_{gpu // 4 * 4 + (gpu + 1) % 4}") == "PHB"
    assert len(node.hosts) == 2
    built = network(node)
    assert built.nics == tuple((f"n0.nic{gpu}",) for gpu in range(8))


def test_counts_tell_the_generation() -> None:
    assert node_values(read_smi_topology(hgx("NV12"))).nvlink_bytes_per_s == pytest.approx(240e9)
    assert node_values(read_smi_topology(hgx("NV18"))).nvlink_bytes_per_s == pytest.approx(370.8e9)
    blackwell = node_values(read_smi_topology(hgx("NV18"), sm=100))
    assert (blackwell.nvlink_bytes_per_s, blackwell.sm) == (pytest.approx(721.8e9), 100)


def test_a_partial_mesh_is_direct_links() -> None:
    cells = pairs(4, "PHB") | {("GPU1", "GPU0"): "NV2", ("GPU3", "GPU2"): "NV4"}
    node = read_smi_topology(table(cells, 4, ["mlx5_0"], affinity=True))
    assert node.gpus[0].nvlinks == (NvLink("GPU1", 2),)
    assert node.gpus[2].nvlinks == (NvLink("GPU3", 4),)
    assert node_values(node).nvlink_domain == 2
    assert network(node).domains == (0, 0, 2, 2)


def test_a_cube_mesh_of_unequal_links() -> None:
    cells = {("GPU0", "GPU1"): "NV1", ("GPU0", "GPU2"): "NV2", ("GPU0", "GPU3"): "NV1"}
    cells |= {("GPU1", "GPU2"): "NV1", ("GPU1", "GPU3"): "NV2", ("GPU2", "GPU3"): "NV1"}
    node = read_smi_topology(table(cells, 4, []))
    assert {sum(link.count for link in gpu.nvlinks or ()) for gpu in node.gpus} == {4}
    assert network(node).graph.edges["n0.gpu0", "n0.gpu2"]["bytes_per_s"] == pytest.approx(40e9)


def test_no_nvlink_at_all() -> None:
    cells = pairs(4, "SYS") | {("GPU0", "GPU1"): "PIX", ("GPU2", "GPU3"): "PHB"}
    node = read_smi_topology(table(cells, 4, ["mlx4_0"]))
    assert node_values(node).nvlink_bytes_per_s == 0.0
    assert [node.closeness("GPU0", other) for other in ("GPU1", "GPU2")] == ["PIX", "SYS"]
    assert node.closeness("GPU2", "GPU3") == "PHB"
    assert len(network(node).gpus) == 4


@pytest.mark.parametrize("nic", ["mlx5_bond_0", "ibp12s0", "rocep17s0f0", "rdma3", "mlx4_0"])
def test_cards_have_any_name(nic: str) -> None:
    node = read_smi_topology(table(pairs(2, "NV4") | {("GPU1", nic): "PIX"}, 2, [nic], numa=[0, 0]))
    assert node.nearest_nics("GPU1") == (nic,)


def test_two_levels_of_switches() -> None:
    cells = pairs(4, "PXB") | {("GPU0", "GPU1"): "PIX", ("GPU2", "GPU3"): "PIX"}
    node = read_smi_topology(table(cells, 4, []))
    assert node.closeness("GPU0", "GPU1") == "PIX"
    assert node.closeness("GPU0", "GPU3") == "PXB"
    assert len(node.switches) == 3


def test_one_gpu() -> None:
    node = read_smi_topology("\tGPU0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\nGPU0\t X \t0-63\t0\t\tN/A\n")
    assert (len(node.gpus), node.gpus[0].numa, node_values(node).nvlink_domain) == (1, 0, 1)


def test_nvlinks_hide_the_host_and_numa_tells_it() -> None:
    node = read_smi_topology(table(pairs(4, "NV18"), 4, [], numa=[0, 0, 1, 1]))
    assert [host.numa for host in node.hosts] == [0, 1]
    assert node.closeness("GPU0", "GPU1") == "PHB"
    assert node.closeness("GPU0", "GPU2") == "SYS"


def test_what_the_table_says_is_not_overruled_by_numa() -> None:
    node = read_smi_topology(table(pairs(2, "SYS"), 2, [], numa=[0, 0]))
    assert node.closeness("GPU0", "GPU1") == "SYS"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("NV18", "NV12", "a link has two equal ends"),
        ("NV18", "WAT", "'WAT' in the row of GPU0 is not X, NV#, PIX"),
        ("\nGPU7", "\nGPU6", "a second row of GPU6"),
        ("\nGPU7", "\nGPU9", "the table ends before the row of GPU7; is it cut short"),
        ("GPU0\tGPU1\t", "GPU0\tGPU0\t", "17 devices|16 devices, 15 of them different"),
        ("NIC1: mlx5_1", "NIC1: mlx5_0", "two NICs have one name"),
    ],
)
def test_what_is_wrong_is_one_clear_line(old: str, new: str, message: str) -> None:
    text = hgx()
    assert old in text
    with pytest.raises(SpecError, match=message) as caught:
        read_smi_topology(text.replace(old, new, 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "hello", "GPU0", LEGEND, "GPU0 GPU1\nfoo"])
def test_no_table(text: str) -> None:
    assert not is_smi_topology(text)
    with pytest.raises(SpecError, match="no nvidia-smi topo -m table"):
        read_smi_topology(text)


def test_a_table_inside_other_output() -> None:
    text = "$ nvidia-smi topo -m\nsome words\n" + hgx() + "\nulimit soft: 1000000\n"
    assert is_smi_topology(text)
    assert len(read_smi_topology(text).gpus) == 8


def test_a_table_cut_anywhere_is_refused_or_the_same() -> None:
    text = hgx()
    whole = read_smi_topology(text)
    end_of_rows = text.index("\nLegend")
    for end in range(0, end_of_rows - 8, 17):
        with pytest.raises(SpecError):
            read_smi_topology(text[:end])
    assert read_smi_topology(text[:end_of_rows]).gpus == whole.gpus


WORDS = st.sampled_from(["NV1", "NV2", "NV18", "PIX", "PXB", "PHB", "NODE", "SYS"])


@given(st.data(), st.integers(1, 6), st.integers(0, 3))
def test_any_table_becomes_a_connected_network(data: st.DataObject, gpus: int, nics: int) -> None:
    names = [f"GPU{gpu}" for gpu in range(gpus)] + [f"NIC{nic}" for nic in range(nics)]
    cells = {}
    for index, one in enumerate(names):
        for other in names[:index]:
            word = data.draw(WORDS)
            cells[one, other] = "SYS" if word.startswith("NV") and not one.startswith("GPU") else word
    numa = data.draw(st.lists(st.integers(0, 2), min_size=gpus, max_size=gpus))
    node = read_smi_topology(table(cells, gpus, names[gpus:], numa=numa))
    assert isinstance(node, ImportedNode)
    order = ["PIX", "PXB", "PHB", "SYS"]
    for (one, other), word in cells.items():
        if word in order:
            # The tree brings together what the table calls near, never apart.
            ends = (name if name.startswith("GPU") else f"mlx5_{name[3:]}" for name in (one, other))
            assert order.index(node.closeness(*ends)) <= order.index(word)
    built = network(node)
    assert len(built.gpus) == gpus


@given(st.text(alphabet="GPU0123 NVX\tNICmlx5_\n", max_size=200))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    refused = ""
    try:
        read_smi_topology(text)
    except (SpecError, LayoutError) as error:
        refused = str(error)
    assert "\n" not in refused
