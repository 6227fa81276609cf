"""Logs of nccl-tests in every form: printed by a printer that follows its format, then made ugly."""

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.errors import SpecError
from parsim.network.importers import MeasuredRow, MeasuredTable, read_log
from parsim.network.importers.measured import COLLECTIVES, bus_factor, kind_of
from parsim.network.importers.nccl_tests import is_log

PROGRAM = {kind: f"{kind}_perf" for kind in COLLECTIVES} | {"all_to_all": "alltoall_perf", "send": "sendrecv_perf"}


def figure(value: float, width: int) -> str:
    """A number as nccl-tests prints it: as many decimals as the width leaves."""
    power = 0
    while value >= 10**power:
        power += 1
    if power < width - 2:
        return f"{value:{width}.2f}"
    if power < width - 1:
        return f"{value:{width}.1f}"
    return f"{value:{width}.0f}" if power < width + 1 else f"{value:{width}.1e}"


def printed(
    kind: str,
    ranks: int,
    rows: list[tuple[int, float, float]],
    *,
    hosts: int = 1,
    starting: bool = True,
    devices: bool = True,
    last: str = "#wrong",
    group: bool = True,
) -> str:
    """A log as nccl-tests prints it; rows are (bytes, us out of place, us in place)."""
    lines = [f"# Collective test starting: {PROGRAM[kind]}"] if starting else []
    lines.append(
        f"# nThread 1 nGpus 1 minBytes 8 maxBytes {rows[-1][0] if rows else 8} step: 2(factor) warmup iters: 5"
    )
    lines += ["#", "# Using devices"]
    if devices:
        for rank in range(ranks):
            host, belongs = f"node{rank * hosts // ranks}", "Group  0 " if group else ""
            lines.append(
                f"#  Rank {rank:2d} {belongs}Pid {4000 + rank:6d} on {host:>10s}"
                f" device {rank % 8:2d} [0x1b] NVIDIA H100"
            )
    lines += ["#", "#" + " " * 60 + "out-of-place                       in-place          "]
    names = f"#{'size':>11s}  {'count':>12s}  {'type':>8s}  {'redop':>6s}  {'root':>6s}"
    lines.append(names + f"  {'time':>7s}  {'algbw':>6s}  {'busbw':>6s}  {last:>6s}" * 2)
    lines.append(
        f"#{'(B)':>11s}  {'(elements)':>12s}" + " " * 26 + f"  {'(us)':>7s}  {'(GB/s)':>6s}  {'(GB/s)':>6s}" * 2
    )
    for size, *times in rows:
        line = f"{size:12d}  {size // 4:12d}  {'float':>8s}  {'none':>6s}  {-1:6d}"
        for index, time in enumerate(times):
            rate = size / time / 1e3
            bus = rate * bus_factor(kind, ranks)
            wrong = "N/A" if index and kind == "all_to_all" else "0"
            line += f"  {figure(time, 7)}  {figure(rate, 6)}  {figure(bus, 6)}  {wrong:>6s}"
        lines.append(line)
    lines += ["# Out of bounds values : 0 OK", "# Avg bus bandwidth    : 76.4083 ", "#", ""]
    return "\n".join(lines)


def sizes(first: int = 20, last: int = 30) -> list[tuple[int, float, float]]:
    return [(2**power, 30 + 2**power / 1.2e5, 31.5 + 2**power / 1.19e5) for power in range(first, last)]


def near(table: MeasuredTable, rows: list[tuple[int, float, float]]) -> None:
    assert [row.size_bytes for row in table.rows] == [row[0] for row in rows]
    for row, (_, outer, inner) in zip(table.rows, rows, strict=True):
        assert row.seconds == pytest.approx(outer / 1e6, rel=1e-3)
        assert row.in_place_seconds == pytest.approx(inner / 1e6, rel=1e-3)


@pytest.mark.parametrize("kind", COLLECTIVES)
@pytest.mark.parametrize("last", ["#wrong", "error"])
@pytest.mark.parametrize(("ranks", "hosts"), [(2, 2), (8, 1), (64, 8)])
def test_what_was_printed_is_read(kind: str, last: str, ranks: int, hosts: int) -> None:
    (table,) = read_log(printed(kind, ranks, sizes(), hosts=hosts, last=last))
    assert (table.kind, table.ranks, table.nodes, table.gpu) == (kind, ranks, hosts, "NVIDIA H100")
    near(table, sizes())
    assert table.notes == ()
    assert table.bus_bytes_per_s(table.rows[-1]) == pytest.approx(
        table.rows[-1].size_bytes / table.rows[-1].seconds * bus_factor(kind, ranks)
    )


def attempt(text: str) -> tuple[tuple[MeasuredTable, ...], str | None]:
    """The tables, or why there are none."""
    try:
        return read_log(text), None
    except SpecError as error:
        return (), str(error)


PREFIXES = ["[1,0]<stdout>:", "[1,0]<stdout>: ", "node-0: ", "0: ", "2024-05-01T10:20:30.123Z ", "worker-0 | ", "  "]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_every_line_is_passed_over(prefix: str) -> None:
    plain = printed("all_gather", 16, sizes(), hosts=2)
    wrapped = "\n".join(prefix + line for line in plain.splitlines())
    assert [table.rows for table in read_log(wrapped)] == [table.rows for table in read_log(plain)]
    assert read_log(wrapped)[0].ranks == 16


def test_sizes_glued_to_a_prefix() -> None:
    log = printed("all_reduce", 8, [(2**37, 4e5, 4.1e5)])
    (table,) = read_log("\n".join("[1,0]<stdout>:" + line for line in log.splitlines()))
    assert table.rows[0].size_bytes == 2**37


def test_other_output_between_rows() -> None:
    noise = "node0:4000:4100 [3] NCCL INFO Channel 00/24 : 0 1 2 3\nWARNING: 12 34 things\n\x1b[1mbold\x1b[0m"
    lines = printed("all_reduce", 8, sizes()).splitlines()
    noisy = "\n".join(f"{line}\n{noise}" for line in lines)
    near(read_log(noisy)[0], sizes())


def test_several_tables_in_one_file() -> None:
    text = (
        "mpirun -np 64 -x NCCL_ALGO=Ring /opt/nccl-tests/build/all_reduce_perf -b 8\n"
        + printed("all_reduce", 64, sizes(), hosts=8, starting=False)
        + printed("all_to_all", 8, sizes(20, 25))
        + "$ ./build/reduce_scatter_perf -b 8 -e 8G\n"
        + printed("reduce_scatter", 4, sizes(20, 22), starting=False)
    )
    tables = read_log(text)
    assert [(table.kind, table.ranks, table.nodes, len(table.rows)) for table in tables] == [
        ("all_reduce", 64, 8, 10),
        ("all_to_all", 8, 1, 5),
        ("reduce_scatter", 4, 1, 2),
    ]
    assert [table.algorithm for table in tables] == ["Ring", None, None]
    assert len({table.source for table in tables}) == 3


@pytest.mark.parametrize("ranks", [2, 3, 4, 8, 16, 24, 64])
@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "all_to_all"])
def test_ranks_follow_from_the_rates(kind: str, ranks: int) -> None:
    log = printed(kind, ranks, sizes(14, 34), devices=False)
    (table,) = read_log(log)
    assert table.ranks == ranks
    assert "busbw / algbw" in table.notes[0]
    assert read_log(log, ranks=ranks)[0].notes == ()


def test_an_all_reduce_is_known_by_its_rates() -> None:
    log = printed("all_reduce", 8, sizes(), starting=False)
    assert read_log(log)[0].kind == "all_reduce"
    with pytest.raises(SpecError, match="says of no collective which it is; give one of"):
        read_log(printed("all_gather", 8, sizes(), starting=False))
    assert read_log(printed("all_gather", 8, sizes(), starting=False), kind="all-gather")[0].kind == "all_gather"


@pytest.mark.parametrize("kind", ["broadcast", "send"])
def test_ranks_that_nothing_says_must_be_given(kind: str) -> None:
    log = printed(kind, 8, sizes(), devices=False)
    with pytest.raises(SpecError, match="give the ranks"):
        read_log(log)
    assert read_log(log, ranks=8)[0].ranks == 8


def test_many_ranks_cannot_be_told_from_few_digits() -> None:
    with pytest.raises(SpecError, match=r"its rates fit \d+ to \d+; give the ranks"):
        read_log(printed("all_reduce", 2048, sizes(20, 22), devices=False))


def test_a_caller_must_not_contradict_the_log() -> None:
    log = printed("all_reduce", 8, sizes())
    with pytest.raises(SpecError, match="lists 8 ranks, not 16"):
        read_log(log, ranks=16)
    with pytest.raises(SpecError, match="measures all_reduce, not all_gather"):
        read_log(log, kind="allgather")
    with pytest.raises(SpecError, match="is not one of all_reduce"):
        read_log(log, kind="everything")


def test_the_caller_chooses_among_tables() -> None:
    text = printed("all_reduce", 8, sizes()) + printed("all_gather", 8, sizes()) + printed("all_gather", 16, sizes())
    assert [table.ranks for table in read_log(text, kind="all_gather")] == [8, 16]
    assert [table.kind for table in read_log(text, ranks=8)] == ["all_reduce", "all_gather"]
    with pytest.raises(SpecError, match="measures all_reduce, not broadcast"):
        read_log(text, kind="broadcast")


def test_programs_of_no_known_collective_are_passed_over() -> None:
    other = printed("all_to_all", 8, sizes()).replace("alltoall_perf", "alltoallv_perf")
    assert [table.kind for table in read_log(other + printed("all_reduce", 8, sizes()))] == ["all_reduce"]
    with pytest.raises(SpecError, match="alltoallv_perf measures none of all_reduce"):
        read_log(other)


def test_rates_that_contradict_the_ranks_are_told() -> None:
    log = printed("all_reduce", 16, sizes(), devices=False)
    (table,) = read_log(log, ranks=2)
    assert any("perhaps a wrong rank count" in note for note in table.notes)
    assert read_log(log, ranks=16)[0].notes == ()


def test_a_rank_of_two_processes_without_mpi_is_one_rank() -> None:
    log = printed("all_reduce", 1, sizes())
    assert any("one rank" in note for note in read_log(log)[0].notes)


def test_a_device_list_that_was_cut_is_rounded_up_to_processes() -> None:
    lines = printed("all_reduce", 16, sizes(), hosts=2).replace("nGpus 1", "nGpus 8").splitlines()
    kept = [line for line in lines if not line.startswith(("#  Rank 14", "#  Rank 15", "#  Rank  6"))]
    assert read_log("\n".join(kept))[0].ranks == 16


@pytest.mark.parametrize(
    ("old", "new", "left", "reason"),
    [
        ("    38.74", "  nan", 1, "not finite"),
        ("    38.74", "  inf", 1, "not finite"),
        ("    38.74", "  -38.74", 1, "not finite"),
        ("    38.74", "  0.00", 1, "not finite"),
        ("    38.74", "  garbage", 1, "no number as time"),
        ("     1048576  ", "           0  ", 1, "0 bytes"),
        ("     1048576  ", "99999999999999999999999  ", 1, "outside"),
        ("     1048576  ", "9" * 5000 + "  ", 1, "outside"),
        ("     1048576  ", "-1048576  ", 1, "outside"),
    ],
)
def test_rows_that_cannot_be_used_are_left_out_and_told(old: str, new: str, left: int, reason: str) -> None:
    log = printed("all_reduce", 8, sizes())
    assert old in log
    (table,) = read_log(log.replace(old, new, 1))
    assert len(table.rows) == len(sizes()) - left
    assert any(reason in note for note in table.notes)
    assert all(math.isfinite(row.seconds) and row.seconds > 0 for row in table.rows)


@pytest.mark.parametrize(
    "text", ["", "\n\n", "hello", "# Using devices", printed("all_reduce", 8, []), "{}", "[]", "{"]
)
def test_no_table_is_one_clear_line(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_log(text)
    assert "\n" not in str(caught.value)


def test_all_rows_useless_says_why() -> None:
    with pytest.raises(SpecError, match="no measured row: 3 rows left out: 0 bytes"):
        read_log(printed("reduce_scatter", 64, [(0, 5.7, 5.5)] * 3))


def test_a_log_that_stops_anywhere_is_a_shorter_log() -> None:
    log = printed("all_reduce", 8, sizes())
    rows = read_log(log)[0].rows
    first = log.index("     1048576  ")
    lengths = set()
    for end in range(first + 60, len(log), 7):
        tables, refused = attempt(log[:end])
        if refused is not None:
            assert "cut short" in refused
            continue
        (table,) = tables
        for row, whole in zip(table.rows, rows, strict=False):
            assert row.size_bytes == whole.size_bytes
            assert row.seconds == whole.seconds
            assert row.in_place_seconds in (None, whole.in_place_seconds)
        lengths.add(len(table.rows))
    assert lengths == set(range(1, len(rows) + 1))


def test_columns_are_read_by_name() -> None:
    text = """
    # all_reduce_perf
    #  Rank  0 Pid 1 on a device 0 [0x0] X
    #  Rank  1 Pid 2 on b device 0 [0x0] X
    #  size count type redop cputime algbw busbw #wrong  i_min  i_cv%  cputime  algbw  busbw  #wrong  i_min  i_cv% stamp
    #  (B)  (elements)  (ms)  (GB/s) (GB/s)  (ms) (%)  (ms) (GB/s) (GB/s)  (ms) (%)
      4194304 1048576 bfloat16 sum 0.5 8.39 8.39 0 0.4 1.2 0.6 6.99 6.99 0 0.5 1.1 2025-01-01 10:00:00
    """
    (table,) = read_log(text)
    assert table.rows == (MeasuredRow(4194304, 0.5e-3, pytest.approx(0.6e-3)),)
    assert table.nodes == 2


def test_a_blank_half_is_in_place() -> None:
    text = printed("all_reduce", 2, [(2**20, 100.0, 100.0)]).splitlines()
    at = next(i for i, line in enumerate(text) if "1048576  " in line and "float" in line)
    cells = text[at]
    head, half = cells[:52], cells[-33:]
    text[at] = head + " " * 33 + half
    (table,) = read_log("\n".join(text))
    assert table.rows == (MeasuredRow(2**20, pytest.approx(1e-4), pytest.approx(1e-4)),)


def report(**changes: object) -> str:
    """The file of nccl-tests -J."""
    half = {"time": 100.0, "alg_bw": 10.48576, "bus_bw": 18.35008, "nwrong": 0.0}
    document = {
        "version": 2,
        "args": ["/opt/build/all_reduce_perf", "-J", "out.json"],
        "env": ["HOME=/root", "NCCL_ALGO=NVLS"],
        "config": {
            "nthreads": 1,
            "ngpus": 4,
            "devices": [
                {"rank": rank, "group": 0, "hostname": f"n{rank // 4}", "device": 0, "device_info": "NVIDIA H100"}
                for rank in (0, 4)
            ],
        },
        "results": [{"size": 2**20, "count": 2**18, "type": "float", "out_of_place": half, "in_place": half}],
        "errors": [],
    } | changes
    return json.dumps(document)


def test_the_json_of_nccl_tests() -> None:
    (table,) = read_log(report())
    assert (table.kind, table.ranks, table.nodes, table.gpu) == ("all_reduce", 8, 2, "NVIDIA H100")
    assert (table.algorithm, table.notes) == ("NVLS", ())
    assert table.rows == (MeasuredRow(2**20, pytest.approx(1e-4), pytest.approx(1e-4)),)


def test_the_json_of_nccl_tests_without_devices() -> None:
    assert read_log(report(config={}))[0].ranks == 8


@pytest.mark.parametrize(
    "results",
    [
        [{"size": 2**20, "out_of_place": {"time": "nan"}}],
        [{"size": 2**20, "out_of_place": None, "in_place": None}],
        [{"size": "x", "out_of_place": {"time": 3.0}}],
        [{}],
        [3],
        [],
    ],
)
def test_a_json_without_a_usable_row(results: list[object]) -> None:
    with pytest.raises(SpecError):
        read_log(report(results=results), ranks=8)


TABLES = """
units: us
tables:
- id: one
  collective: alltoall
  n_gpus: 16
  n_nodes: 2
  hardware: H100
  algo: default
  source: https://example.org/log
  rows:
  - {bytes: 1048576, time_us: 100.0, algbw_gbps: 10.49, busbw_gbps: 9.83, time_us_inplace: 99.0}
  - {bytes: 2097152, time_us: 180.0}
"""


def test_table_files_of_yaml() -> None:
    (table,) = read_log(TABLES)
    assert table == MeasuredTable(
        "all_to_all",
        16,
        2,
        "H100",
        (MeasuredRow(1048576, pytest.approx(1e-4), pytest.approx(9.9e-5)), MeasuredRow(2097152, pytest.approx(1.8e-4))),
        "default",
        "https://example.org/log",
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("collective: alltoall", "collective: sing", "table one: collective 'sing' is not one of"),
        ("n_gpus: 16", "n_gpus: 0", "0 ranks"),
        ("n_gpus: 16", "n_gpus: -8", "-8 ranks"),
        ("time_us: 180.0", "time: 180.0", "row 2 needs `bytes` and `time_us`"),
        ("rows:", "lines:", "needs `collective`, `n_gpus` and a list of `rows`"),
    ],
)
def test_table_files_that_miss_something(old: str, new: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read_log(TABLES.replace(old, new))


def test_the_cost_file_of_calibrate() -> None:
    rows = [
        {"kind": kind, "ranks": ranks, "bytes": 2**power, "seconds": 1e-5 * ranks, "algbw_gbps": 1.0, "busbw_gbps": 1.0}
        for kind in ("all_reduce", "all_to_all")
        for ranks in (2, 4)
        for power in (16, 20)
    ]
    text = json.dumps({"schema_version": "1.0", "kind": "cost", "collectives": rows})
    assert [(table.kind, table.ranks, len(table.rows)) for table in read_log(text)] == [
        ("all_reduce", 2, 2),
        ("all_reduce", 4, 2),
        ("all_to_all", 2, 2),
        ("all_to_all", 4, 2),
    ]
    assert len(read_log(text, kind="all_reduce", ranks=4)) == 1
    with pytest.raises(SpecError, match="has no such collective; it has all_reduce on 2"):
        read_log(text, kind="broadcast")


def test_names_of_collectives() -> None:
    for kind in COLLECTIVES:
        assert kind_of(kind) == kind_of(PROGRAM[kind]) == kind
    assert kind_of("./build/AllReduce_perf") == "all_reduce"
    assert kind_of("alltoallv_perf") is None


@pytest.mark.parametrize(
    ("text", "expected"), [(printed("all_reduce", 2, sizes()), True), (TABLES, True), (report(), True)]
)
def test_logs_are_recognised(text: str, expected: bool) -> None:
    assert is_log(text) is expected
    assert not is_log("<system version='1'/>")


@given(st.text(max_size=200), st.integers(0, 2**32))
def test_any_text_is_read_or_refused_in_one_line(text: str, seed: int) -> None:
    lines = printed("all_reduce", 4, sizes(20, 23)).splitlines()
    lines.insert(random.Random(seed).randrange(len(lines)), text)
    for log in (text, "\n".join(lines)):
        tables, refused = attempt(log)
        assert "\n" not in (refused or "")
        assert all(row.size_bytes > 0 and 0 < row.seconds < math.inf for table in tables for row in table.rows)


@given(
    st.sampled_from(COLLECTIVES),
    st.integers(2, 64),
    st.lists(st.tuples(st.integers(4, 2**40), st.floats(1.0, 1e8)), min_size=1, max_size=20),
)
def test_print_and_read_are_inverse(kind: str, ranks: int, rows: list[tuple[int, float]]) -> None:
    full = [(size, time, time) for size, time in rows]
    (table,) = read_log(printed(kind, ranks, full))
    assert [row.size_bytes for row in table.rows] == [size for size, _ in rows]
    for row, (_, time) in zip(table.rows, rows, strict=True):
        assert row.seconds == pytest.approx(time / 1e6, rel=0.06)


def test_a_log_of_one_rank_whose_rates_say_more_is_told_so() -> None:
    text = LOG_OF_ONE_RANK
    (table,) = read_log(text, kind="all_reduce")
    assert table.ranks == 1
    assert any("perhaps a wrong rank count" in note for note in table.notes)


LOG_OF_ONE_RANK = """\
#  Rank  0 Group  0 Pid 1 on node1 device  0 [0x1b] NVIDIA H100 80GB HBM3
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
    16777216       4194304     float     sum      -1   251.80   66.63  116.60      0   251.80   66.63  116.60      0
   268435456      67108864     float     sum      -1  2181.00  123.08  215.39      0  2181.00  123.08  215.39      0
"""
