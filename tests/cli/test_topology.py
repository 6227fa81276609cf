"""`parsim topology` as its command function: bundled clusters and imported files, tables, pages, JSON, refusals."""

import json
from pathlib import Path
from typing import Any

import pytest

from parsim.cli.topology import topology_command
from parsim.errors import LayoutError, ParsimError, SpecError

SMI = "\tGPU0\tGPU1\tNIC0\nGPU0\t X \tNV4\tPIX\nGPU1\tNV4\t X \tSYS\nNIC0\tPIX\tSYS\t X \n"
XML = (
    '<system version="1"><cpu numaid="0" arch="x86_64" vendor="AuthenticAMD" familyid="175" modelid="1">'
    '<pci busid="0000:00:01.0" class="0x060400" link_speed="16 GT/s" link_width="16">'
    '<pci busid="0000:10:00.0" class="0x030200" link_speed="16 GT/s" link_width="16"/>'
    '<pci busid="0000:20:00.0" class="0x030200" link_speed="16 GT/s" link_width="16"/>'
    '<pci busid="0000:30:00.0" class="0x020700" link_speed="16 GT/s" link_width="16"/>'
    "</pci></cpu></system>"
)
GRAPHS = (
    '<graphs version="1"><graph id="0" pattern="4" nchannels="12" speedintra="20" speedinter="20" typeintra="NVL" '
    'typeinter="PIX"/></graphs>'
)
ASTRA = "topology: [ Ring, Switch ]\nnpus_count: [ 4, 2 ]\nbandwidth: [ 50, 25 ]\nlatency: [ 500, 700 ]\n"
CLUSTER = "name: mine\nnode: dgx-h100\nnodes: 2\nfabric: {kind: ib, topology: rail_optimised, rails: 8}\n"
FILES = {"a.txt": SMI, "b.xml": XML, "c.xml": GRAPHS, "d.yml": ASTRA, "e.yaml": CLUSTER}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text)
    return tmp_path


def played(source: str, nodes: int | None = None, **options: Any) -> dict[str, Any]:
    topology_command(source, nodes, json=Path("out.json"), **options)
    found: dict[str, Any] = json.loads(Path("out.json").read_text())
    return found


@pytest.mark.parametrize(
    ("source", "gpus"), [("dgx-h100", 32), ("a.txt", 2), ("b.xml", 2), ("d.yml", 8), ("e.yaml", 16)]
)
def test_anything_becomes_a_table_a_page_and_json(
    files: Path, capsys: pytest.CaptureFixture[str], source: str, gpus: int
) -> None:
    document = played(source, html=Path("out.html"))
    assert document["schema_version"] == "1.0"
    assert document["gpus"] == gpus
    assert document["source"]
    out = capsys.readouterr().out
    assert "GPU" in out
    assert "GB/s" in out
    assert "<figure>" in Path("out.html").read_text()


def test_the_graphs_of_a_search(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = played("c.xml")
    assert document["graphs"][0]["bus_bytes_per_s"] == pytest.approx(240e9)
    assert "240" in capsys.readouterr().out
    with pytest.raises(SpecError, match="--html: c lists channels, not links"):
        topology_command("c.xml", None, html=Path("out.html"))
    assert not Path("out.html").exists()


def test_json_on_standard_output_is_alone(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topology_command("b.xml", None, json=Path("-"))
    assert json.loads(capsys.readouterr().out)["gpus"] == 2


def test_nodes_are_counted(files: Path) -> None:
    assert played("dgx-h100", 3)["gpus"] == 24
    assert played("b.xml", 3)["gpus"] == 6
    assert any("4 nodes are shown" in note for note in played("dgx-h100")["notes"])


def test_what_a_file_does_not_tell_can_be_given(files: Path) -> None:
    told = played("b.xml", sm=80, nvlinks=12, nic="200 Gb/s")
    assert told["node"]["nvlink_bytes_per_s"] == pytest.approx(240e9)
    assert told["node"]["nic_bytes_per_s"] == pytest.approx(25e9)
    assert sum("given, not of the file" in note for note in told["notes"]) == 2
    assert played("b.xml")["node"]["nvlink_bytes_per_s"] is None


def test_the_generation_of_a_table_can_be_given(files: Path) -> None:
    assert played("a.txt")["node"]["nvlink_bytes_per_s"] == pytest.approx(80e9)
    assert played("a.txt", sm=90)["node"]["nvlink_bytes_per_s"] == pytest.approx(82.4e9)


@pytest.mark.parametrize(
    ("source", "nodes", "options", "message"),
    [
        ("nonsense", None, {}, "no bundled cluster 'nonsense'"),
        ("missing.xml", None, {}, "missing.xml: no such topology"),
        (".", None, {}, "is a directory"),
        ("dgx-h100", 0, {}, "--nodes 0: 1 or more"),
        ("e.yaml", 99, {}, "cluster mine has 2"),
        ("d.yml", 2, {}, "d.yml: nodes 2: d says itself how many GPUs"),
        ("dgx-h100", 2, {"sm": 90}, "sm: only for a file of one node"),
        ("d.yml", None, {"nvlinks": 90}, "nvlinks: only for a file of one node"),
        ("b.xml", None, {"nic": "fast"}, "'fast' is not a quantity"),
        ("b.xml", None, {"nvlinks": 0}, "nvlinks 0: above 0"),
        ("dgx-h100", 2, {"html": Path("no/such/folder/x.html")}, "is not a directory"),
        ("dgx-\x00", None, {}, "dgx-"),
    ],
)
def test_refusals_are_one_line(
    files: Path, source: str, nodes: int | None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParsimError, match=message) as caught:
        topology_command(source, nodes, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "hello", "<system", "# size count time algbw busbw", "{}"])
def test_files_of_no_topology(files: Path, text: str) -> None:
    Path("x.txt").write_text(text)
    with pytest.raises((SpecError, LayoutError), match=r"x\.txt: "):
        topology_command("x.txt", None)
