"""The picture of a network: every device that is drawn has a place of its own, and what is left out is said."""

import re
from collections.abc import Mapping
from html import unescape
from typing import Any

import pytest

from parsim.network.build import build
from parsim.network.graph import Network
from parsim.network.importers.astra import AstraDimension, astra_network
from parsim.network.importers.htsim import HtsimTier, HtsimTree, htsim_network
from parsim.network.importers.imported_network import network
from parsim.network.importers.smi_topology import read_smi_topology
from parsim.report.topology import topology_figure
from parsim.report.topology_layout import arrange
from parsim.report.topology_table import device_rows, link_rows, print_topology, topology_page
from parsim.spec.cluster import FabricSpec
from parsim.spec.load import load_cluster

SMI = """
\tGPU0\tGPU1\tGPU2\tGPU3\tNIC0
GPU0\t X \tNV2\tPIX\tSYS\tPXB
GPU1\tNV2\t X \tSYS\tSYS\tPXB
GPU2\tPIX\tSYS\t X \tNV4\tPIX
GPU3\tSYS\tSYS\tNV4\t X \tSYS
NIC0\tPXB\tPXB\tPIX\tSYS\t X
"""
DRAGONFLY = {
    "kind": "slingshot",
    "topology": "dragonfly",
    "rails": 1,
    "dragonfly": {
        "routers_per_group": 4,
        "nodes_per_router": 2,
        "global_links_per_router": 2,
        "link_bytes_per_s": 25e9,
    },
}


def torus(*dimensions: int) -> dict[str, Any]:
    return {
        "kind": "roce",
        "topology": "torus",
        "rails": 1,
        "torus": {"dimensions": list(dimensions), "link_bytes_per_s": 50e9},
    }


def on(fabric: Mapping[str, Any], nodes: int) -> Network:
    cluster = load_cluster("dgx-h100")
    return build(cluster.model_copy(update={"fabric": FabricSpec.model_validate(fabric)}), nodes)


NETWORKS = {
    "one node": lambda: build(load_cluster("dgx-h100"), 1),
    "two nodes": lambda: build(load_cluster("dgx-h100"), 2),
    "sixteen nodes": lambda: build(load_cluster("dgx-h100"), 16),
    "many nodes": lambda: build(load_cluster("dgx-h100"), 70),
    "a rack": lambda: build(load_cluster("gb200-nvl72"), 18),
    "a fat tree": lambda: build(load_cluster("meta-h100-roce"), 128),
    "no nvswitch": lambda: build(load_cluster("local-cpu"), 1),
    "dragonfly": lambda: on(DRAGONFLY, 40),
    "a group": lambda: on(DRAGONFLY, 3),
    "torus 1": lambda: on(torus(8), 8),
    "torus 2": lambda: on(torus(4, 4), 16),
    "torus 3": lambda: on(torus(3, 3, 3), 27),
    "nvidia-smi": lambda: network(read_smi_topology(SMI)),
    "nvidia-smi twice": lambda: network(read_smi_topology(SMI), nodes=2),
    "ring": lambda: astra_network([AstraDimension("Ring", 12, 50e9, 1e-6)]),
    "one gpu": lambda: astra_network([AstraDimension("Ring", 1, 50e9, 1e-6)]),
    "large ring": lambda: astra_network([AstraDimension("Ring", 1000, 50e9, 1e-6)]),
    "mesh": lambda: astra_network(
        [AstraDimension("FullyConnected", 4, 50e9, 1e-6), AstraDimension("Switch", 3, 9e9, 0)]
    ),
    "htsim": lambda: htsim_network(
        HtsimTree(
            8, 4, (HtsimTier(25e9, 1e-6, 2, 2, 1), HtsimTier(25e9, 1e-6, 2, 4, 1), HtsimTier(12.5e9, 1e-6, 4, 0, 2))
        )
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def built(request: pytest.FixtureRequest) -> Network:
    return NETWORKS[request.param]()


def traces(figure: Any, role: str) -> list[Any]:
    return [trace for trace in figure.data if trace.meta["role"] == role]


def test_no_two_devices_have_one_place(built: Network) -> None:
    picture = arrange(built.document())
    assert picture.places
    spots = [(round(x, 6), round(y, 6)) for x, y in picture.places.values()]
    assert len(set(spots)) == len(spots)
    assert set(picture.places) <= set(built.graph)


def test_what_is_drawn_is_in_sight_and_the_rest_is_told(built: Network) -> None:
    document = built.document()
    figure = topology_figure(document, title="a title")
    drawn = sum(len(trace.x) for trace in traces(figure, "devices"))
    told = " ".join(note.text for note in figure.layout.annotations)
    assert drawn == len(arrange(document).places)
    if drawn < len(document["devices"]):
        assert "more" in told or "as all" in told
    (left, right), (bottom, top) = figure.layout.xaxis.range, figure.layout.yaxis.range
    for trace in figure.data:
        assert all(left <= x <= right for x in trace.x if x is not None)
        assert all(bottom <= y <= top for y in trace.y if y is not None)
    assert figure.layout.width is None
    assert figure.layout.height <= 900


def test_hovering_tells_bandwidth_and_latency_of_every_line(built: Network) -> None:
    figure = topology_figure(built.document())
    points = [text for trace in traces(figure, "points") for text in trace.text]
    lines = sum(list(trace.x).count(None) for trace in traces(figure, "links"))
    assert len(points) == lines
    for text in points:
        ends = re.match(r"<b>(.+) – (.+)</b><br>", text)
        assert ends is not None
        edge = built.graph.edges[unescape(ends[1]), unescape(ends[2])]
        assert f"{edge['bytes_per_s'] / 1e9:,.4g} GB/s" in text
        assert re.search(r"[\d.]+ (s|ms|us|ns)\b", text)


def test_lines_are_wider_with_more_bandwidth() -> None:
    figure = topology_figure(build(load_cluster("dgx-h100"), 2).document())
    width = {trace.meta["kind"]: trace.line.width for trace in traces(figure, "links")}
    assert width["nvlink"] > width["pcie"] > width["nic"]


def test_a_line_never_runs_through_a_third_device(built: Network) -> None:
    figure = topology_figure(built.document())
    places = set(arrange(built.document()).places.values())
    for trace in traces(figure, "links"):
        path: list[tuple[float, float]] = []
        for x, y in zip(trace.x, trace.y, strict=True):
            if x is not None:
                path.append((x, y))
                continue
            if len(path) == 2 and path[0][1] == path[1][1]:
                low, high = sorted((path[0][0], path[1][0]))
                assert not [p for p in places if p[1] == path[0][1] and low + 1e-6 < p[0] < high - 1e-6]
            path = []


def test_a_few_nodes_stand_for_many() -> None:
    picture = arrange(build(load_cluster("dgx-h100"), 70).document())
    assert (picture.servers, picture.shown_servers) == (70, 8)
    assert [box.label for box in picture.boxes] == [*(f"node {index}" for index in range(7)), "node 69"]
    assert any("and 62<br>more<br>alike" in text for _, _, text in picture.captions)


def test_sixteen_nodes_are_all_drawn() -> None:
    picture = arrange(build(load_cluster("dgx-h100"), 16).document())
    assert picture.shown_servers == picture.servers == 16
    assert picture.captions == []


def test_a_dragonfly_is_circles_and_a_torus_a_grid() -> None:
    picture = arrange(on(DRAGONFLY, 40).document())
    assert sum(box.round for box in picture.boxes) == 5
    assert picture.square
    grid = arrange(on(torus(4, 4), 16).document())
    routers = [place for name, place in grid.places.items() if name.startswith("router")]
    assert len({x for x, _ in routers}) == len({y for _, y in routers}) == 4


def test_tables_add_up(built: Network) -> None:
    document = built.document()
    assert sum(int(row[1]) for row in device_rows(document)) == len(document["devices"])
    assert sum(2 * float(row[2]) for row in link_rows(document)) == len(document["links"])


def test_the_terminal_shows_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_topology({"source": "a test", **build(load_cluster("dgx-h100"), 2).document()})
    out = capsys.readouterr().out
    for words in ("dgx-h100", "a test", "NVSwitch", "450", "2.95 us", "one NVSwitch stands for all"):
        assert words in out


EVIL = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def test_a_page_is_offline_and_names_are_no_markup() -> None:
    document = build(load_cluster("dgx-h100"), 1).document()
    document |= {"name": EVIL, "source": EVIL, "notes": [EVIL]}
    document["devices"][0] |= {"label": EVIL}
    document["links"][0] |= {"kind": EVIL}
    page = topology_page(document, facts=[(EVIL, EVIL, EVIL)])
    assert EVIL not in page
    assert "<img src=x" not in page.replace("\\u003c", "?")
    assert "default-src 'none'" in page
    assert not re.search(r"<(?:script|img|link)[^>]*\b(?:src|href)=", page)


def test_a_link_of_one_direction_and_of_two_rates_is_told() -> None:
    built = build(load_cluster("dgx-h100"), 1).document()
    kept = [link for link in built["links"] if link["name"] != "nvswitch0 -> n0.gpu0"]
    for link in kept:
        if link["name"] == "nvswitch0 -> n0.gpu1":
            link["bytes_per_s"] = 1e9
    figure = topology_figure({**built, "links": kept})
    texts = [text for trace in traces(figure, "points") for text in trace.text]
    assert sum("this way only" in text for text in texts) == 1
    assert sum("back: 1 GB/s" in text for text in texts) == 1


@pytest.mark.browser
@pytest.mark.parametrize("name", ["two nodes", "dragonfly"])
def test_a_browser_draws_every_device(browser: Any, name: str) -> None:
    document = NETWORKS[name]().document()
    figure = topology_figure(document)
    dom = browser.dom(topology_page(document))
    marks = sum(len(trace.x) for trace in figure.data if "markers" in trace.mode)
    assert len(re.findall(r'<path class="point', dom)) == marks
    assert dom.count('class="scatterlayer') == 1


@pytest.mark.browser
def test_names_from_outside_never_run(browser: Any) -> None:
    document = build(load_cluster("dgx-h100"), 1).document()
    document |= {"name": EVIL, "source": EVIL, "notes": [EVIL]}
    document["devices"][0] |= {"label": EVIL}
    for link in document["links"]:
        link["kind"] = EVIL
    dom = browser.dom(topology_page(document, facts=[(EVIL, EVIL, EVIL)]))
    assert "<title>owned</title>" not in dom
    assert "<title>&lt;/script&gt;" in dom
