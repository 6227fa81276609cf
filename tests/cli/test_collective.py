"""`parsim collective`: its JSON for scripts, a user's log beside it, topology files, and one-line refusals."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from parsim.cli.calibration import read_calibration
from parsim.cli.question import parse_sizes
from parsim.errors import ParsimError, SpecError
from parsim.network.estimate import KINDS, bus_factor, estimate
from parsim.network.reach import reach_of_size
from parsim.spec import catalogue, load_cluster

Cli = Callable[..., Any]
Refused = Callable[[Sequence[object]], str]
KEYS = {
    "kind",
    "bytes",
    "ranks",
    "nodes",
    "time_us",
    "algbw_gbps",
    "busbw_gbps",
    "algorithm",
    "protocol",
    "evidence",
}
KIB, MIB, GIB = 2**10, 2**20, 2**30

XML = """<system version="1">
  <cpu numaid="0" arch="x86_64" vendor="GenuineIntel" familyid="6" modelid="143">
{gpus}
    <nic><net name="{nic}" dev="0" speed="400000" port="1" guid="0x1" maxconn="131072" gdr="1"/></nic>
  </cpu>
</system>
"""
GPU = """    <pci busid="0000:{n:02x}:00.0" class="0x030200" link_speed="32.0 GT/s PCIe" link_width="16">
      <gpu dev="{n}" sm="90" rank="{n}" gdr="1">{links}</gpu>
    </pci>"""
LINKS = '<nvlink target="0000:aa:00.0" count="18" tclass="0x068000"/>'
SILENT = """<system version="1">
  <cpu numaid="0" arch="x86_64" vendor="GenuineIntel" familyid="6" modelid="143">
    <pci busid="0001:00:00.0" class="0x030200" link_speed="32.0 GT/s PCIe" link_width="16"/>
    <pci busid="0002:00:00.0" class="0x030200" link_speed="32.0 GT/s PCIe" link_width="16"/>
    <pci busid="0101:00:00.0" class="0x020700" link_speed="32.0 GT/s PCIe" link_width="16"/>
  </cpu>
</system>
"""
ASTRA = "topology: [Switch, Ring]\nnpus_count: [8, 4]\nbandwidth: [400.0, 50.0]\nlatency: [936.25, 1000.0]\n"


def said(cli: Cli, *arguments: object) -> Any:
    """What a command prints with `--json -`: JSON alone, the same bytes twice."""
    first, second = (cli("collective", *arguments, "--json", "-") for _ in range(2))
    assert (first.code, first.err) == (0, "")
    assert first.out == second.out

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(first.out, parse_constant=refuse)


def log_text(
    cluster: str, nodes: int, factor: float, kind: str = "all_reduce", gpu: str = "NVIDIA H100 80GB HBM3"
) -> str:
    """What nccl-tests would print if the model were off by a factor."""
    reach = reach_of_size(load_cluster(cluster), nodes)
    lines = ["# nThread 1 nGpus 1 minBytes 8 maxBytes 1 step: 2(factor)", "# Using devices"]
    lines += [
        f"#  Rank  {rank} Group  0 Pid   {1000 + rank} on  host{rank * nodes // reach.ranks} device  0 [0x0f] {gpu}"
        for rank in range(reach.ranks)
    ]
    lines += [
        "#                                         out-of-place                       in-place",
        "#   size     count   type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong",
        "#    (B)  (elements)                          (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)",
    ]
    for power in range(16, 34):
        seconds = estimate(kind, 2**power, reach).seconds * factor
        rate = 2**power / seconds / 1e9
        half = f"{seconds * 1e6:.4f} {rate:.2f} {rate * bus_factor(kind, reach.ranks):.2f} 0"
        lines.append(f"{2**power} {2**power // 4} float sum -1 {half} {half}")
    return "\n".join([f"# nccl-tests version 2.13.10 {kind}_perf", *lines]) + "\n"


# -- the list for scripts


@pytest.mark.parametrize("kind", [*KINDS, "allreduce", "all-reduce", "AllGather", "alltoall", "sendrecv"])
def test_json_is_the_list_that_scripts_rely_on(cli: Cli, kind: str) -> None:
    rows = said(cli, kind, "--cluster", "dgx-h100", "--nodes", 4, "--bytes", "64KiB,1GiB")
    assert isinstance(rows, list)
    assert [row["bytes"] for row in rows] == [64 * KIB, GIB]
    for row in rows:
        assert set(row) >= KEYS
        assert row["kind"] in KINDS
        assert (row["ranks"], row["nodes"], row["domains"]) == (32, 4, 4)
        assert row["algbw_gbps"] == pytest.approx(row["bytes"] / row["time_us"] / 1e3)
        assert row["busbw_gbps"] == pytest.approx(row["algbw_gbps"] * bus_factor(row["kind"], 32))
        assert row["evidence"] == "fitted"


@pytest.mark.parametrize("name", catalogue.names("clusters"))
def test_every_bundled_cluster(cli: Cli, name: str) -> None:
    [row] = said(cli, "all_reduce", "--cluster", name, "--nodes", 2, "--bytes", "1MiB")
    assert (row["nodes"], row["ranks"]) == (2, 2 * load_cluster(name).node.gpus)
    assert row["time_us"] > 0


def test_nodes_are_servers_and_domains_stand_beside_them(cli: Cli) -> None:
    [row] = said(cli, "all_reduce", "--cluster", "gb200-nvl72", "--nodes", 36, "--bytes", "1GiB")
    assert (row["nodes"], row["domains"], row["ranks"]) == (36, 2, 144)


def test_a_part_of_the_gpus_of_a_node(cli: Cli) -> None:
    [row] = said(cli, "all_reduce", "--cluster", "dgx-h100", "--nodes", 2, "--ranks-per-node", 4, "--bytes", "1GiB")
    assert row["ranks"] == 8


def test_one_rank_takes_nothing(cli: Cli) -> None:
    [row] = said(cli, "all_reduce", "--cluster", "dgx-h100", "--ranks-per-node", 1, "--bytes", "1GiB")
    assert (row["time_us"], row["busbw_gbps"], row["algorithm"]) == (0.0, 0.0, "none")
    assert (
        "one rank sends nothing"
        in cli("collective", "all_reduce", "--cluster", "dgx-h100", "--ranks-per-node", 1, "--bytes", "1GiB").out
    )


def test_processes_on_loopback_are_as_many_as_asked_for(cli: Cli) -> None:
    for size in (("--nodes", 4), ("--ranks-per-node", 4), ("--nodes", 2, "--ranks-per-node", 2)):
        [row] = said(cli, "all_reduce", "--cluster", "local-cpu", *size, "--bytes", "1MiB")
        assert (row["ranks"], row["evidence"]) == (4, "assumed")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--algorithm", "ring"), {"algorithm": "ring"}),
        (("--algorithm", "Tree", "--protocol", "ll"), {"algorithm": "tree", "protocol": "LL"}),
        (("--algorithm", "NVLSTree"), {"algorithm": "nvls_tree", "protocol": "Simple"}),
        (("--algorithm", "collnet"), {"algorithm": "collnet"}),
        (("--protocol", "LL128"), {"protocol": "LL128"}),
    ],
)
def test_what_is_forced_is_played(cli: Cli, options: tuple[str, ...], found: dict[str, str]) -> None:
    [row] = said(cli, "all_reduce", "--cluster", "dgx-h100", "--nodes", 4, "--bytes", "256MiB", *options)
    assert row.items() >= found.items()


def test_the_table_says_what_the_numbers_stand_on(cli: Cli) -> None:
    done = cli("collective", "all_reduce", "--cluster", "dgx-h100", "--nodes", 8, "--bytes", "64KiB,1GiB")
    assert done.code == 0
    for word in ("64 ranks", "dgx-h100", "busbw GB/s", "64 KiB", "1 GiB", "fitted", "NCCL 2.30", "ib"):
        assert word in done.out, word
    assumed = cli("collective", "all_reduce", "--cluster", "local-cpu", "--nodes", 2, "--bytes", "1MiB").out
    assert "assumes nvlink_bytes_per_s" in assumed


def test_many_sizes_are_all_in_the_json(cli: Cli) -> None:
    sizes = ",".join(str(size) for size in range(1, 3001))
    assert len(said(cli, "all_gather", "--cluster", "dgx-a100", "--bytes", sizes)) == 3000
    out = cli("collective", "all_gather", "--cluster", "dgx-a100", "--bytes", sizes).out
    assert "the first 64 of 3,000 sizes" in out
    assert len(out.splitlines()) < 90


# -- sizes


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("64KiB", [64 * KIB]),
        ("1 MiB, 2MB,3", [MIB, 2_000_000, 3]),
        ("1KiB..8KiB", [KIB, 2 * KIB, 4 * KIB, 8 * KIB]),
        ("3..13", [3, 6, 12]),
        ("5..5,1", [5, 1]),
        ("1.5KiB", [1536]),
        ("1GiB..3GiB", [GIB, 2 * GIB]),
    ],
)
def test_sizes(text: str, sizes: list[int]) -> None:
    assert parse_sizes(text) == sizes


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ",",
            "0",
            "nan",
            "inf",
            "-1",
            "2EiB",
            "64KiB,,",
            "1..",
            "..4",
            "..",
            "8..1",
            "0.5",
            "1.3",
            "x",
            "1KiB...2KiB",
        ),
        *("1e400", "1;2", "0x10", "1..2..4", "1GiB " + "9" * 400, ",".join(["1"] * 10_001)),
    ],
)
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(SpecError, match=r"^--bytes"):
        parse_sizes(text)


# -- a user's log


def test_a_log_corrects_and_stands_beside(cli: Cli) -> None:
    Path("log.txt").write_text(log_text("dgx-h100", 4, 1.3))
    base = ("all_reduce", "--cluster", "dgx-h100", "--nodes", 4, "--bytes", "64KiB,1GiB,3GiB")
    plain, corrected = said(cli, *base), said(cli, *base, "--calibration", "log.txt")
    for one, other in zip(plain, corrected, strict=True):
        assert other["time_us"] == pytest.approx(1.3 * one["time_us"], rel=0.02)
        assert other["uncalibrated_us"] == one["time_us"]
        assert (one["evidence"], other["evidence"]) == ("fitted", "calibrated")
    for row in corrected[:2]:
        assert row["error"] == pytest.approx(0, abs=1e-6)
        assert row["error"] == pytest.approx(row["time_us"] / row["measured_us"] - 1)
        assert row["uncalibrated_error"] == pytest.approx(1 / 1.3 - 1, abs=1e-3)
    assert "measured_us" not in corrected[2]
    table = cli("collective", *base, "--calibration", "log.txt").out
    assert re.search(r"measured +error +error without log", table)
    assert "corrected by 18 measured rows" in table
    assert "-23.1%" in table


def test_every_second_size_of_a_log_predicts_the_others(cli: Cli) -> None:
    lines = log_text("dgx-h100", 4, 1.3).splitlines(keepends=True)
    rows = [line for line in lines if line[0].isdigit()]
    held = {int(line.split()[0]): float(line.split()[5]) for line in rows[1::2]}
    Path("half.txt").write_text("".join(line for line in lines if line not in rows[1::2]))
    sizes = ",".join(map(str, held))
    found = said(
        cli, "all_reduce", "--cluster", "dgx-h100", "--nodes", 4, "--bytes", sizes, "--calibration", "half.txt"
    )
    errors = [abs(row["time_us"] / held[row["bytes"]] - 1) for row in found]
    assert sum(errors) / len(errors) < 0.05
    assert not any("measured_us" in row for row in found)


def test_a_log_of_a_node_alone_and_of_many(cli: Cli) -> None:
    """Two tables, two classes of links: each is corrected by its own."""
    tables = [
        {"collective": kind, "n_gpus": 8 * nodes, "n_nodes": nodes, "hardware": "H100", "rows": rows}
        for kind, nodes, factor in (("all_reduce", 1, 1.2), ("all_reduce", 4, 0.8), ("alltoall", 4, 2.0))
        if (
            rows := [
                {
                    "bytes": 2**power,
                    "time_us": factor
                    * 1e6
                    * estimate(kind, 2**power, reach_of_size(load_cluster("dgx-h100"), nodes)).seconds,
                }
                for power in range(14, 34)
            ]
        )
    ]
    Path("tables.json").write_text(json.dumps({"tables": tables}))
    for kind, nodes, factor in (("all_reduce", 1, 1.2), ("all_reduce", 4, 0.8), ("alltoall", 4, 2.0)):
        base = (kind, "--cluster", "dgx-h100", "--nodes", nodes, "--bytes", "16KiB..8GiB")
        plain, found = said(cli, *base), said(cli, *base, "--calibration", "tables.json")
        for one, other in zip(plain, found, strict=True):
            assert other["time_us"] == pytest.approx(factor * one["time_us"], rel=1e-6)


def test_what_the_executor_measured_on_this_machine(cli: Cli) -> None:
    rows = [
        {"kind": "all_reduce", "ranks": 2, "bytes": 65536, "seconds": 1e-4, "algbw_gbps": 0.65, "busbw_gbps": 0.65},
        {"kind": "all_reduce", "ranks": 2, "bytes": 1048576, "seconds": 8e-4, "algbw_gbps": 1.31, "busbw_gbps": 1.31},
        {"kind": "all_gather", "ranks": 4, "bytes": 65536, "seconds": 3e-4},
    ]
    Path("cost.json").write_text(json.dumps({"schema_version": "1.0", "collectives": rows}))
    found = said(
        cli, "all_reduce", "--cluster", "local-cpu", "--nodes", 2, "--bytes", "64KiB,1MiB", "--calibration", "cost.json"
    )
    assert [row["time_us"] for row in found] == pytest.approx([100, 800])
    [other] = said(
        cli, "all_gather", "--cluster", "local-cpu", "--nodes", 4, "--bytes", "64KiB", "--calibration", "cost.json"
    )
    assert other["measured_us"] == pytest.approx(300)


def test_a_log_of_a_forced_algorithm_speaks_for_it_alone(cli: Cli, refused: Refused) -> None:
    reach = reach_of_size(load_cluster("dgx-h100"), 1)
    rows = [
        {"bytes": s, "time_us": 1.5e6 * estimate("all_reduce", s, reach, algorithm="ring").seconds} for s in (MIB, GIB)
    ]
    Path("ring.json").write_text(json.dumps({"collective": "all_reduce", "n_gpus": 8, "algo": "Ring", "rows": rows}))
    base = ["all_reduce", "--cluster", "dgx-h100", "--bytes", "1MiB,1GiB"]
    err = refused(["collective", *base, "--calibration", "ring.json"])
    assert "NCCL_ALGO=Ring" in err
    assert "--algorithm ring" in err
    forced = [*base, "--algorithm", "ring"]
    plain, found = said(cli, *forced), said(cli, *forced, "--calibration", "ring.json")
    for one, other in zip(plain, found, strict=True):
        assert other["time_us"] == pytest.approx(1.5 * one["time_us"], rel=1e-6)


def test_a_log_that_names_no_collective_is_of_the_one_asked_for(cli: Cli) -> None:
    lines = [line for line in log_text("dgx-h100", 1, 1.0, "all_gather").splitlines() if "_perf" not in line]
    Path("log.txt").write_text("\n".join(lines))
    [row] = said(cli, "all_gather", "--cluster", "dgx-h100", "--bytes", "1GiB", "--calibration", "log.txt")
    assert row["error"] == pytest.approx(0, abs=1e-6)


BAD_LOGS = {
    "empty": "",
    "blank": "\n \n",
    "words": "no table here\n",
    "another table": "size,seconds\n1,2\n",
    "not a number": "# all_reduce_perf\n#  size count type redop root time algbw busbw #wrong\n"
    " 8 2 float sum -1 nan nan nan 0\n",
    "broken JSON": "{",
    "empty JSON": "{}",
    "NaN": '{"collectives": [{"kind": "all_reduce", "ranks": 8, "bytes": 8, "seconds": NaN}]}',
    "no rows": '{"tables": [{"collective": "all_reduce", "n_gpus": 8, "rows": []}]}',
    "one rank": '{"tables": [{"collective": "all_reduce", "n_gpus": 1, "rows": [{"bytes": 8, "time_us": 1}]}]}',
    "too many ranks": '{"tables": [{"collective": "all_reduce", "n_gpus": 12, "n_nodes": 1, "rows": '
    '[{"bytes": 8, "time_us": 1}]}]}',
    "uneven": '{"tables": [{"collective": "all_reduce", "n_gpus": 15, "rows": [{"bytes": 8, "time_us": 1}]}]}',
    "another GPU": '{"tables": [{"collective": "all_reduce", "n_gpus": 8, "hardware": "A100-SXM4-80GB", "rows": '
    '[{"bytes": 8, "time_us": 1}]}]}',
    "no model": '{"tables": [{"collective": "gather", "n_gpus": 8, "rows": [{"bytes": 8, "time_us": 1}]}]}',
}


@pytest.mark.parametrize("what", BAD_LOGS)
def test_a_log_that_is_none_is_refused(refused: Refused, what: str) -> None:
    Path("bad.log").write_text(BAD_LOGS[what])
    err = refused(["collective", "all_reduce", "--cluster", "dgx-h100", "--bytes", "1MiB", "--calibration", "bad.log"])
    assert "bad.log" in err


def test_a_log_beyond_the_cluster(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "big.json"
    rows = [{"bytes": 8, "time_us": 1}]
    path.write_text(json.dumps({"tables": [{"collective": "all_reduce", "n_gpus": 100_000, "rows": rows}]}))
    with pytest.raises(ParsimError, match=r"big\.json: .*100000 ranks: .* has 1 to"):
        read_calibration(path, load_cluster("meta-h100-roce"))


def test_a_rack_may_be_called_a_node(tmp_path: Path) -> None:
    path = tmp_path / "rack.json"
    rows = [{"bytes": MIB, "time_us": 50}]
    path.write_text(json.dumps({"collective": "all_reduce", "n_gpus": 72, "n_nodes": 1, "rows": rows}))
    [row] = read_calibration(path, load_cluster("gb200-nvl72")).measurements
    assert (row.ranks, row.domains) == (72, 1)


# -- topology files


def test_a_dump_of_a_live_machine(cli: Cli) -> None:
    gpus = "\n".join(GPU.format(n=n, links=LINKS) for n in range(8))
    Path("dump.xml").write_text(XML.format(gpus=gpus, nic="mlx5_0"))
    [row] = said(cli, "all_reduce", "--cluster", "dump.xml", "--bytes", "1GiB")
    [same] = said(cli, "all_reduce", "--cluster", "dgx-h100", "--bytes", "1GiB")
    assert row["ranks"] == 8
    assert row["time_us"] == pytest.approx(same["time_us"])
    [many] = said(cli, "all_reduce", "--cluster", "./dump.xml", "--nodes", 4, "--bytes", "1GiB")
    assert 10 < many["busbw_gbps"] < 60  # one NIC of 50 GB/s in each node


def test_a_silent_file_says_what_is_assumed(cli: Cli) -> None:
    Path("vendor.xml").write_text(SILENT)
    base = ("collective", "all_reduce", "--cluster", "vendor.xml", "--nodes", 2, "--bytes", "1GiB")
    out = cli(*base).out
    for words in ("no NVLink is assumed", "NICs are assumed to be as fast", "compute capability", "fabric is assumed"):
        assert words in out
    known = cli(*base, "--like", "azure-ndv5").out
    assert "NVLink rates as on azure-ndv5" in known
    assert "is assumed" not in known.replace("compute capability 90 is assumed", "")
    slow, fast = (
        said(cli, "all_reduce", "--cluster", "vendor.xml", "--bytes", "1GiB", *like)[0]["time_us"]
        for like in ((), ("--like", "azure-ndv5"))
    )
    assert fast < slow


def test_an_astra_network(cli: Cli) -> None:
    Path("net.yml").write_text(ASTRA)
    [row] = said(cli, "all_reduce", "--cluster", "net.yml", "--nodes", 4, "--bytes", "1GiB")
    assert (row["ranks"], row["domains"]) == (32, 4)
    err = cli("collective", "all_reduce", "--cluster", "net.yml", "--nodes", 5, "--bytes", "1GiB").err
    assert "1 to 4" in err


# -- pictures


def test_a_page_with_the_log_s_points(cli: Cli) -> None:
    Path("log.txt").write_text(log_text("dgx-h100", 1, 1.3))
    done = cli(
        *("collective", "all_reduce", "--cluster", "dgx-h100", "--bytes", "1KiB..1GiB"),
        *("--calibration", "log.txt", "--html", "page.html"),
    )
    assert done.code == 0
    page = Path("page.html").read_text()
    assert '"role":"measured"' in page
    assert "corrected by the log" in page
    assert "default-src 'none'" in page  # nothing is loaded


# -- refusals

BASE = ("--cluster", "dgx-h100", "--bytes", "1MiB")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nonsense", *BASE), "one of all_reduce"),
        (("reduce", *BASE), "one of all_reduce"),
        (("all_reduce", "--cluster", "dgx-h10", "--bytes", "1MiB"), "dgx-h100"),
        (("all_reduce", "--cluster", "", "--bytes", "1MiB"), "cluster"),
        (("all_reduce", "--cluster", "nope.xml", "--bytes", "1MiB"), "no such cluster or topology file"),
        (("all_reduce", "--cluster", "run.yaml", "--bytes", "1MiB"), "run.yaml"),
        (("all_reduce", "--cluster", ".", "--bytes", "1MiB"), "."),
        (("all_reduce", *BASE, "--nodes", 0), "--nodes 0"),
        (("all_reduce", *BASE, "--nodes", -3), "--nodes -3"),
        (("all_reduce", *BASE, "--nodes", 10**9), "1,000,000"),
        (("all_reduce", "--cluster", "meta-h100-roce", "--bytes", "1", "--nodes", 99_999), "meta-h100-roce has 1 to"),
        (("all_reduce", *BASE, "--ranks-per-node", 9), "dgx-h100 has 8 GPUs"),
        (("all_reduce", *BASE, "--ranks-per-node", 0), "ranks per node 0"),
        (("all_reduce", *BASE, "--algorithm", "bubble"), "one of ring, tree"),
        (("all_reduce", *BASE, "--protocol", "tcp"), "one of LL, LL128, Simple"),
        (("all_reduce", *BASE, "--algorithm", "nvls_tree"), "possible are ring LL"),
        (("all_gather", *BASE, "--algorithm", "tree"), "possible are ring LL"),
        (("alltoall", *BASE, "--algorithm", "ring"), "it has none"),
        (("send", *BASE, "--protocol", "LL"), "it has none"),
        (("all_reduce", *BASE, "--like", "azure-ndv5"), "no topology file"),
        (("all_reduce", *BASE, "--calibration", "nope.log"), "no such calibration file"),
        (("all_reduce", *BASE, "--calibration", "."), "is a directory"),
        (("all_reduce", *BASE, "--ranks-per-node", 1, "--html", "x.html"), "nothing to draw"),
        (("all_reduce", *BASE, "--json", "missing/x.json"), "is not a directory"),
        (("all_reduce", "--cluster", "dgx-h100", "--bytes", "2EiB"), "--bytes"),
        (("all_reduce", "--cluster", "dgx-h100", "--bytes", "1e30"), "at most 1 EiB"),
        (("all_reduce", "--cluster", "dgx-h100"), "--bytes"),
        (("all_reduce", "--bytes", "1"), "--cluster"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_refused_in_one_line(refused: Refused, arguments: tuple[object, ...], says: str) -> None:
    assert says in refused(["collective", *arguments])
