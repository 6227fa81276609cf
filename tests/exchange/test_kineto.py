"""Traces of torch.profiler become a Timeline: a real one's sums are the profiler's; GPUs by a trace written here."""

import gzip
import json
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from parsim.comparison import compare_timelines
from parsim.errors import ParsimError, SpecError
from parsim.exchange.kineto import read_trace, timeline_of_traces
from parsim.timeline import Timeline, timeline_document, timeline_from_document
from tests.exchange.profiled import STEPS, Job, Profiled, profile_rank


def timeline(*paths: Path, step: str | None = None) -> Timeline:
    return timeline_of_traces([read_trace(path) for path in paths], step)[0]


def sums_us(recorded: Timeline, rank: int) -> dict[str, float]:
    """Microseconds by stream, communication by what it is."""
    found: Counter[str] = Counter()
    for span in recorded.spans:
        if span.rank == rank:
            key = str(span.detail.get("kind", span.stream.split()[0]))
            found[key] += (span.end_s - span.start_s) * 1e6
    return dict(found)


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> list[Profiled]:
    pytest.importorskip("torch", reason="needs torch: pip install parsim-train[run]")
    from executor.launch import launch

    found = launch(profile_rank, Job(str(tmp_path_factory.mktemp("traces"))), 2, hang_after_s=60.0)
    assert found is not None
    return found


@pytest.mark.timeout(280)
def test_sums_of_a_real_trace_are_the_profilers(profiled: list[Profiled]) -> None:
    recorded = timeline(*(Path(each.path) for each in reversed(profiled)))
    assert recorded.ranks == 2
    assert recorded.source == "run"
    for rank, each in enumerate(profiled):
        found = sums_us(recorded, rank)
        assert found.pop("kernels") == pytest.approx(each.compute_us, rel=1e-3)
        assert found.pop("compute") == pytest.approx(each.annotated_us, rel=1e-6)
        assert set(found) == set(each.gloo_us)
        assert found == pytest.approx(each.gloo_us, rel=1e-6)
    assert {"all_reduce", "all_gather", "broadcast"} <= set(profiled[0].gloo_us)
    assert ("send" in profiled[0].gloo_us, "recv" in profiled[1].gloo_us) == (True, True)


@pytest.mark.timeout(280)
def test_annotated_ops_are_laid_beside_a_prediction(profiled: list[Profiled]) -> None:
    recorded = timeline(*(Path(each.path) for each in profiled))
    ops = [str(span.op) for span in recorded.stream(1)]
    assert sorted(ops) == sorted(f"1{kind}{mb}" for kind in "FB" for mb in range(STEPS))
    again = timeline_from_document(json.loads(json.dumps(timeline_document(recorded))))
    comparison = compare_timelines(recorded, again)
    assert comparison.total.delta == pytest.approx(0.0)
    assert all(cause.delta == pytest.approx(0.0, abs=1e-12) for cause in comparison.causes)
    assert comparison.ops == ()


def event(category: str, name: str, start: float, duration: float, tid: object, **arguments: object) -> dict[str, Any]:
    return {"ph": "X", "cat": category, "name": name, "ts": start, "dur": duration, "tid": tid, "args": arguments}


def gpu_events() -> list[dict[str, Any]]:
    return [
        {"ph": "M", "name": "thread_name", "tid": 2, "args": {"name": "thread 2 (pt_autograd_0)"}},
        event("user_annotation", "ProfilerStep#3", 0, 100, 1),
        event("gpu_user_annotation", "ProfilerStep#3", 1000, 100, 7),
        event("gpu_user_annotation", "ProfilerStep#4", 1100, 100, 7),
        event("gpu_user_annotation", "Optimizer.step#AdamW.step", 1160, 30, 7),
        event("cuda_runtime", "cudaLaunchKernel", 5, 1, 1, correlation=11),
        event("cuda_runtime", "cudaLaunchKernel", 20, 1, 2, correlation=12),
        event("kernel", "sm90_xmma_gemm", 1010, 30, 7, stream=7, correlation=11),
        event("kernel", "ampere_bwd", 1050, 40, 7, stream=7, correlation=12),
        event("kernel", "elementwise", 1105, 5, 20, stream=20, correlation=13),
        event("kernel", "multi_tensor_apply", 1165, 10, 7, stream=7, correlation=14),
        event("kernel", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(x)", 1020, 25, 22, stream=22),
        event("kernel", "ncclKernel_ReduceScatter_RING_LL_Sum", 1120, 15, 22, stream=22),
        event("kernel", "ncclDevKernel_SendRecv(x)", 1130, 8, 24, stream=24, **{"Collective name": "send"}),
        event("kernel", "ncclDevKernel_SendRecv(x)", 1140, 9, 24, stream=24, **{"Collective name": "all_to_allv"}),
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 1150, 6, 7, stream=7),
        event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 1158, 2, 7, stream=7),
        event("cpu_op", "aten::mm", 4, 50, 1),
    ]


def written(folder: Path, name: str, header: Mapping[str, object] | None = None, text: str | None = None) -> Path:
    path = folder / name
    if text is None:
        text = json.dumps(
            {"schemaVersion": 1, **(header or {}), "traceEvents": gpu_events(), "traceName": "x"}, indent=1
        )
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_kernels_collectives_messages_and_copies_of_a_gpu(tmp_path: Path, name: str) -> None:
    recorded = timeline(written(tmp_path, name, {"distributedInfo": {"rank": 5}}))
    expected = {
        "compute": 30 + 40 + 5 + 10,
        "all_reduce": 25,
        "reduce_scatter": 15,
        "send": 8,
        "all_to_all": 9,
        "copy": 8,
    }
    assert sums_us(recorded, 0) == pytest.approx(expected)
    main = recorded.stream(0)
    assert [str(span.op) for span in main] == ["0F0", "0B0", "0STEP"]
    assert [str(span.op) for span in recorded.stream(0, "copy")] == ["0OFFLOAD0", "0RELOAD0"]
    assert {str(span.op) for span in recorded.stream(0, "collective")} == {"0REDUCE_GRAD", "0UNSHARD"}
    assert main[0].start_s == pytest.approx(0.0)


def test_one_step_of_several(tmp_path: Path) -> None:
    path = written(tmp_path, "trace.json")
    assert sums_us(timeline(path, step="ProfilerStep#3"), 0)["compute"] == pytest.approx(70)
    notes = timeline_of_traces([read_trace(path)])[1]
    assert any("2 steps" in note.text for note in notes)
    with pytest.raises(SpecError, match=r"ProfilerStep#3, ProfilerStep#4"):
        timeline(path, step="ProfilerStep#9")


def test_clocks_of_ranks_are_laid_on_one(tmp_path: Path) -> None:
    bases = {"a.json": 1_000_000_000, "b.json": 1_000_500_000}
    paths = [
        written(tmp_path, name, {"distributedInfo": {"rank": rank}, "baseTimeNanoseconds": base})
        for rank, (name, base) in enumerate(bases.items())
    ]
    recorded = timeline(*reversed(paths))
    assert recorded.stream(1)[0].start_s - recorded.stream(0)[0].start_s == pytest.approx(500e-6)
    with pytest.raises(SpecError, match=r"two traces are of rank 0"):
        timeline(paths[0], paths[0])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no traceEvents"),
        ("hello", "no traceEvents"),
        ("{}", "no traceEvents"),
        ('{"a": 1}', "no traceEvents"),
        ('{"traceEvents": []}', "nothing ran"),
        ("[]", "nothing ran"),
        ('{"traceEvents": [1]}', "no JSON object"),
        ('{"traceEvents": [{"ph": "X"', "cut off behind event 0"),
        ('{"traceEvents": [{"ph": "X", "cat": "cpu_op", "name": "a"}]}', "no time that can be read"),
        ('{"traceEvents": [{"ph": "X", "cat": "cpu_op", "name": "a", "ts": 1, "dur": -1}]}', "no time"),
        ('{"traceEvents": [{"ph": "X", "cat": "cpu_op", "name": "a", "ts": NaN, "dur": 1}]}', "no time"),
        ('{"traceEvents": [' + "[" * 100_000, "no JSON object"),
    ],
)
def test_one_clear_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ParsimError) as caught:
        timeline(written(tmp_path, "bad.json", text=text))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_trace_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = json.dumps({"traceEvents": gpu_events()})
    for length in range(20, len(whole) - 2, 97):
        with pytest.raises(ParsimError):
            timeline(written(tmp_path, "cut.json", text=whole[:length]))
    damaged = tmp_path / "cut.json.gz"
    damaged.write_bytes(gzip.compress(whole.encode())[:-20])
    with pytest.raises(ParsimError, match="cut off or damaged"):
        timeline(damaged)
    with pytest.raises(ParsimError, match="no such trace"):
        timeline(tmp_path / "nope.json")


def test_a_large_trace_is_read_piece_by_piece(tmp_path: Path) -> None:
    """Most of a trace is nested operators: what is kept of one is 20 bytes, of 200 of the file."""
    path = tmp_path / "large.json"
    count = 60_000
    with path.open("w") as stream:
        stream.write('{"schemaVersion": 1,\n"traceEvents": [\n')
        for index in range(count):
            inner = event("cpu_op", "aten::mm", index * 10 + 1, 2, 1, **{"External id": index, "Ev Idx": index})
            outer = event("cpu_op", "aten::linear", index * 10, 5, 1, **{"External id": index, "Ev Idx": index})
            rest = [inner, event("cpu_instant_event", "[memory]", index, 0, 1), {"ph": "i", "s": "t", "ts": 1}]
            stream.write(",\n".join(map(json.dumps, [outer, *rest])) + ",\n")
        stream.write('{"ph": "i", "ts": 1}]}')
    size = path.stat().st_size
    assert size > 20e6
    tracemalloc.start()
    trace = read_trace(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(trace.rows) == count
    assert sum(row.duration_us for row in trace.rows) == pytest.approx(5 * count)
    assert peak < size * 1.2
