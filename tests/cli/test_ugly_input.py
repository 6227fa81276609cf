"""Whatever goes in, one line comes out: `error: ...`, exit code 2, no traceback, no partial file."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

Refused = Callable[[Sequence[object]], str]
PLAY = ("schedule", "1f1b", "--pp", 4, "--microbatches", 8)

# arguments, and what the line must say
ARGUMENTS: list[tuple[tuple[object, ...], str]] = [
    ((), "name a command"),
    (("fly",), "fly"),
    (("schedul",), "schedule"),
    (("--fast",), "--fast"),
    (("list",), "schedules"),
    (("list", "foo"), "clusters"),
    (("list", "gpus", "models"), "models"),
    (("schedule",), "name a schedule"),
    (("schedule", "1f1b"), "--pp"),
    (("schedule", "1f1c", "--pp", 4, "--microbatches", 8), "did you mean 1f1b"),
    (("schedule", "", "--pp", 4, "--microbatches", 8), "schedule"),
    (("schedule", "1f1b\n\x1b[31m", "--pp", 4, "--microbatches", 8), "schedule"),
    (("schedule", "1f1b", "--pp", "x", "--microbatches", 8), "--pp"),
    (("schedule", "1f1b", "--pp", 0, "--microbatches", 8), "pp"),
    (("schedule", "1f1b", "--pp", -4, "--microbatches", 8), "pp"),
    (("schedule", "1f1b", "--pp", 10**15, "--microbatches", 8), "pp"),
    (("schedule", "1f1b", "--pp", 10**400, "--microbatches", 8), "pp"),
    (("schedule", "1f1b", "--pp", 4, "--microbatches", 0), "micro-batches"),
    (("schedule", "1f1b", "--pp", 4, "--microbatches", 10**15), "micro-batches"),
    (("schedule", "all", "--pp", 0, "--microbatches", 8), "pp"),
    (("schedule", "all", "--pp", 4, "--microbatches", 8, "--html", "x.html"), "--html"),
    (("schedule", "interleaved", "--pp", 4, "--microbatches", 9), "8"),
    (("schedule", "interleaved", "--pp", 4, "--microbatches", 8, "--stages-per-rank", 0), "stages"),
    (("schedule", "1f1b", "--pp", 4, "--microbatches", 8, "--stages-per-rank", 3), "stage"),
    (("schedule", "1f1b", "--pp", 4, "--microbatches", 8, "--group-size", 3), "group_size"),
    (("schedule", "interleaved", "--pp", 4, "--microbatches", 8, "--group-size", 0), "group"),
    (("schedule", "dualpipe", "--pp", 3, "--microbatches", 8), "even"),
    (("schedule", "dualpipe", "--pp", 4, "--microbatches", 7), "8"),
    ((*PLAY, "--times", "F=-1"), "F=-1"),
    ((*PLAY, "--times", "F=nan"), "nan"),
    ((*PLAY, "--times", "F=1e999"), "finite"),
    ((*PLAY, "--times", "F=1:2"), "lists 2 stages, the plan has 4"),
    ((*PLAY, "--times", "F=1:1:1:1e308"), "1e308"),
    ((*PLAY, "--times", "F=1e16"), "1e+15"),
    ((*PLAY, "--times", "Q=1"), "Q=1"),
    ((*PLAY, "--times", "F"), "NAME=VALUE"),
    ((*PLAY, "--times", "F=1,F=2"), "twice"),
    ((*PLAY, "--memory-limit", 3), "a limit of 4 would do"),
    ((*PLAY, "--memory-limit", "nan"), "memory limit"),
    ((*PLAY, "--memory-limit", -1), "memory limit"),
    ((*PLAY, "--memory-limit", "lots"), "--memory-limit"),
    ((*PLAY, "--colour", "red"), "--colour"),
    ((*PLAY, "--html"), "--html"),
    ((*PLAY, "--html", "no/such/folder/x.html"), "is not a directory"),
    ((*PLAY, "--html", "."), "directory"),
    ((*PLAY, "--html", ""), "directory"),
    ((*PLAY, "--html", "run.yaml/x.html"), "is not a directory"),
    ((*PLAY, "--html", "/proc/x.html"), "cannot be written"),
    ((*PLAY, "--html", "x" * 300), "cannot be written"),
    ((*PLAY, "--html", "x\0y"), "null"),
    ((*PLAY, "--html", "a", "--csv", "a"), "two outputs"),
    ((*PLAY, "--html", "a", "--csv", "./a"), "two outputs"),
    ((*PLAY, "--json", "/no/such/x.json"), "cannot be written"),
    (("schedule", "1f1b", "--plan", "run.yaml"), "leave out the name"),
    (("schedule", "--plan", "missing.csv"), "no such plan"),
    (("schedule", "--plan", "."), "directory"),
    (("schedule", "--plan", "/dev/null"), "plan"),
    (("schedule", "--plan", "/dev/zero"), "at most 256 MiB"),
    (("simulate",), "RUN"),
    (("simulate", "llama3-70b-46"), "did you mean llama3-70b-64"),
    (("simulate", ""), "run"),
    (("simulate", "missing.yaml"), "no such run file"),
    (("simulate", "./"), "directory"),
    (("simulate", "/dev/null"), "empty"),
    (("simulate", "/dev/zero"), "at most 5 MiB"),
    (("simulate", "\0"), "neither a name nor a path"),
    (("simulate", "run.yaml", "--set", "layout.mesh.tp"), "layout.mesh.tp"),
    (("simulate", "run.yaml", "--set", "=4"), "="),
    (("simulate", "run.yaml", "--set", "layout.mehs.tp=4"), "did you mean mesh"),
    (("simulate", "run.yaml", "--set", "layout.mesh.tp=four"), "tp"),
    (("simulate", "run.yaml", "--set", "layout.mesh.tp=[1"), "layout.mesh.tp"),
    (("simulate", "run.yaml", "--set", "model=llama3-07b"), "did you mean llama3"),
    (("simulate", "run.yaml", "--set", "cluster.name=dgx-h10"), "did you mean dgx-h100"),
    (("simulate", "run.yaml", "--set", "cluster.node.gpu=h100-80g-sxn"), "did you mean h100-80g-sxm"),
    (("simulate", "run.yaml", "--engine", "foo"), "path, events"),
    (("simulate", "run.yaml", "--jitter", "foo"), "lognormal:SIGMA"),
    (("simulate", "run.yaml", "--jitter", "lognormal:nan"), "lognormal:SIGMA"),
    (("simulate", "run.yaml", "--jitter", "lognormal:-1"), "lognormal:SIGMA"),
    (("simulate", "run.yaml", "--jitter", "lognormal:7"), "0 to 1"),
    (("simulate", "run.yaml", "--slow-rank", "x"), "RANK=FACTOR"),
    (("simulate", "run.yaml", "--slow-rank", "99999999=2"), "ranks 0 to 7"),
    (("simulate", "run.yaml", "--slow-rank", "-1=2"), "RANK=FACTOR"),
    (("simulate", "run.yaml", "--slow-rank", "1=0"), "more than 0"),
    (("simulate", "run.yaml", "--slow-rank", "1=1e999"), "finite"),
    (("simulate", "run.yaml", "--slow-rank", "1=2", "--slow-rank", "1=3"), "twice"),
    (("simulate", "run.yaml", "--steps", 0), "at least 1"),
    (("simulate", "run.yaml", "--steps", 10**12), "steps"),
    (("simulate", "run.yaml", "--seed", -1, "--jitter", "lognormal:0.1"), "seed"),
    (("simulate", "run.yaml", "--timeline", "a", "--json", "a"), "two outputs"),
    (("simulate", "run.yaml", "--json", "."), "directory"),
    (("simulate", "mixtral-8x7b"), "no bundled run"),
    (("compare", "a.json"), "B.json"),
    (("compare", "a.json", "b.json"), "no such"),
    (("compare", ".", "."), "directory"),
    (("compare", "/dev/null", "/dev/null"), "not JSON"),
    (("init", "--out", "new.yaml", "--model", "llama4"), "did you mean llama3"),
    (("init", "--out", "new.yaml", "--cluster", "dgx-h1000"), "did you mean dgx-h100"),
    (("init", "--out", "new.yaml", "--gpus", 0), "gpus 0"),
    (("init", "--out", "new.yaml", "--gpus", -8), "gpus -8"),
    (("init", "--out", "new.yaml", "--gpus", 12), "8 or 16"),
    (("init", "--out", "new.yaml", "--gpus", 8), "more GPUs"),
    (("init", "--out", "run.yaml"), "--force"),
    (("init", "--out", "run.yaml/x"), "cannot be written"),
    (("check",), "name a run"),
    (("check", "missing.json"), "no such plan"),
    (("check", "run.yml"), "no such run"),
]


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS, ids=[repr(arguments)[1:60] for arguments, _ in ARGUMENTS])
def test_arguments(refused: Refused, arguments: tuple[object, ...], message: str) -> None:
    assert message in refused(arguments).replace("'", "")


# What replaces what in a sound run file, and what the line must say
CHANGES: list[tuple[str, str, str]] = [
    ("schedule: 1f1b", "schedul: 1f1b", "did you mean schedule"),
    ("schedule: 1f1b", "schedule: 1f1c", "did you mean 1f1b"),
    ("schedule: 1f1b", "schedule: interleaved\n  stages_per_rank: 3", "8"),
    ("hidden: 256", "hidden: 80 lightyears", "hidden"),
    ("name: dgx-h100, nodes: 1", "name: dgx-h100, nodes: 1, node: {gpu: {memory_bytes: 80 lightyears}}", "lightyears"),
    ("nodes: 1", "nodes: 1, evidence: x", "evidence"),
    ("nodes: 1", "nodes: 1, node: {gpu: {memory_bytes: .inf}}", "memory_bytes"),
    ("name: dgx-h100", "name: dgx-h10", "did you mean dgx-h100"),
    ("tp: 2, dp: 2", "tp: 3, dp: 2", "tp"),
    ("heads: 8", "heads: 7", "heads"),
    ("nodes: 1", "nodes: 3", "24 GPUs"),
    ("dp: 2, pp: 2", "dp: 3, pp: 2", "12 ranks"),
    ("dp: 2, pp: 2", "dp: 0, pp: 2", "dp"),
    ("dp: 2, pp: 2", "dp: -2, pp: -2", "dp"),
    ("dp: 2, pp: 2", "dp: 2, dp: 2, pp: 2", "stands twice"),
    ("global_batch_size: 16", "global_batch_size: 15", "14 or 16 would do"),
    ("global_batch_size: 16", "global_batch_size: .inf", "global_batch_size"),
    ("global_batch_size: 16", "global_batch_size: .nan", "global_batch_size"),
    ("global_batch_size: 16", "global_batch_size: 1e400", "global_batch_size"),
    ("global_batch_size: 16", "global_batch_size: -16", "global_batch_size"),
    ("global_batch_size: 16", f"global_batch_size: {'9' * 5000}", "global_batch_size"),
    ("global_batch_size: 16", f"global_batch_size: {10**15}", "at most"),
    ("global_batch_size: 16", "global_batch_size: 1000000000", "micro-batches"),
    ("layers: 8", "layers: 100000000000", "layers"),
    ("precision: bf16", "precision: !!python/object:os.system ls", "tag"),
    ("precision: bf16", "precision: &a bf16", "anchor"),
    ("precision: bf16", "precision: *a", "alias"),
    ("precision: bf16", "precision: bf61", "did you mean bf16"),
    ("precision: bf16", "precision: [bf16", "line"),
    ("precision: bf16", "precision: bf16\n---\na: 1", "second document"),
    ("precision: bf16", "precision: {bf16: 1}", "precision"),
    ("precision: bf16", "\tprecision: bf16", "line"),
]


@pytest.mark.parametrize("command", ["simulate", "check"])
@pytest.mark.parametrize(("old", "new", "message"), CHANGES, ids=[new[:50] for _, new, _ in CHANGES])
def test_run_files(refused: Refused, command: str, old: str, new: str, message: str) -> None:
    text = Path("run.yaml").read_text()
    assert old in text
    Path("run.yaml").write_text(text.replace(old, new))
    assert message in refused((command, "run.yaml")).replace("'", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"- model\n- cluster\n", "a list"),
        (b"llama3-70b\n", "single value"),
        (b"\xff\xfe\x00\x01", "UTF-8"),
        ("model: llama3-70b".encode("utf-16"), "UTF-8"),
        (b"a: \x00", "run.yaml"),
        (b"[" * 10_000_000, "MiB"),
        (b"[" * 1_000_000, "nested"),
        (b"{a: " * 1_000_000, "nested"),
        (b"a: &a [x]\nb: &b [*a, *a]\n", "anchor"),
        (b"?", "run.yaml"),
        (b"%YAML 9.9\n---\na: 1", "run.yaml"),
        (b"<<: {a: 1}", "run.yaml"),
        (b"model: llama3-70b", "missing"),
    ],
    ids=lambda value: repr(value[:16]),
)
def test_files_that_are_no_run(refused: Refused, content: bytes, message: str) -> None:
    Path("run.yaml").write_bytes(content)
    for command in ("simulate", "check"):
        assert message in refused((command, "run.yaml"))


SOUND = {"schema_version": "1.0", "ranks": 1, "source": "sim", "spans": []}
SPAN = {"rank": 0, "stream": "compute", "op": "0F0", "start_s": 0.0, "end_s": 1.0, "waiting_s": 0.0, "detail": {}}
PLANS: list[tuple[str, str | bytes, str]] = [
    ("plan.csv", "0F0,0F3x,0B0\n", "0F3x"),
    ("plan.csv", "0F0,0B0,1F0\n1F0,1B0\n", "1F0"),
    ("plan.csv", "0B0,0F0\n1F0,1B0\n", "0B0"),
    ("plan.csv", "0F0,1F1,1B1,0B0\n", ""),
    ("plan.csv", "0F0,0F0,0B0\n", "0F0"),
    ("plan.csv", "0F0\n", "0"),
    ("plan.csv", "0F99999999999999999999,0B99999999999999999999\n", ""),
    ("plan.csv", "", "plan"),
    ("plan.csv", "\n\n\n", "plan"),
    ("plan.csv", b"\xff\xfe", "UTF-8"),
    ("plan.csv", b"0F0,\x000B0", ""),
    ("plan.csv", "0F0," * 100_000, ""),
    ("plan.json", '{"schedule": "1f1b", "ord', "not JSON"),
    ("plan.json", "[" * 1_000_000, "nested"),
    ("plan.json", "{}", ""),
    ("plan.json", "[]", ""),
    ("plan.json", '{"schema_version": "9.0", "orders": []}', ""),
    ("plan.json", '{"schema_version": "1.0", "schedule": "x", "placement": [], "microbatches": 1e9, "orders": 3}', ""),
]


@pytest.mark.parametrize("number", range(len(PLANS)), ids=[f"{name}:{content[:30]!r}" for name, content, _ in PLANS])
def test_plans(refused: Refused, number: int) -> None:
    name, content, message = PLANS[number]
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    for command in (
        ("schedule", "--plan", name, "--html", "x.html"),
        ("check", name),
        ("simulate", "run.yaml", "--plan", name, "--json", "-"),
    ):
        error = refused(command)
        assert message in error
        assert name in error


def test_a_plan_has_a_size_of_its_own(refused: Refused) -> None:
    Path("plan.csv").write_text("0F0,0B0\n1F0,1B0\n")
    for option, value in (("--pp", 4), ("--microbatches", 8), ("--stages-per-rank", 2), ("--group-size", 1)):
        assert option in refused(("schedule", "--plan", "plan.csv", option, value))


def test_a_plan_that_deadlocks(refused: Refused) -> None:
    """Rank 0 waits for the backward of rank 1, which waits for a forward that rank 0 plays later."""
    Path("plan.csv").write_text("0F0,0B0,0F1,0B1\n1F1,1B1,1F0,1B0\n")
    for command in (("schedule", "--plan", "plan.csv", "--json", "-"), ("simulate", "run.yaml", "--plan", "plan.csv")):
        assert "0B0" in refused(command)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        3,
        {"step_time_s": 1},
        {"step_time_s": "fast", "exposed_s": {}},
        {"step_time_s": 10**400, "exposed_s": {}},
        {"step_time_s": 1, "exposed_s": {"tp": 10**400}},
        {"step_time_s": 1e308, "exposed_s": {}},
        {"step_time_s": 1, "exposed_s": {"tp": "x"}},
        {**SOUND, "schema_version": "2.0"},
        {**SOUND, "schema_version": None},
        {**SOUND, "ranks": 0},
        {**SOUND, "ranks": 10**12},
        {**SOUND, "source": "dream"},
        {**SOUND, "spans": {}},
        {**SOUND, "spans": [3]},
        {**SOUND, "spans": [{}]},
        *(
            {**SOUND, "spans": [{**SPAN, **broken}]}
            for broken in (
                {"rank": 7},
                {"rank": True},
                {"rank": "0"},
                {"stream": 3},
                {"op": "0F3x"},
                {"op": None},
                {"start_s": 2.0},
                {"start_s": -1.0},
                {"end_s": None},
                {"end_s": "1"},
                {"end_s": 10**400},
                {"detail": [1]},
                {"detail": "x"},
                {"waiting_s": "x"},
            )
        ),
        {**SOUND, "spans": [SPAN], "memory": [{}]},
        {**SOUND, "spans": [SPAN], "memory": [{"rank": 0, "t_s": 0, "bytes": {"parameters": "x"}}]},
        {**SOUND, "spans": [SPAN], "memory": [{"rank": 0, "t_s": 0, "bytes": {"parameters": 1e300}}]},
        {**SOUND, "spans": [SPAN], "memory": [{"rank": 0, "t_s": 0, "bytes": {"parameters": -1}}]},
        {**SOUND, "spans": [SPAN], "memory": 3},
        {**SOUND, "spans": [SPAN], "run": [1]},
        {**SOUND, "spans": [SPAN], "evidence": "x"},
    ],
    ids=lambda value: json.dumps(value)[-60:],
)
def test_recordings(refused: Refused, document: object) -> None:
    Path("a.json").write_text(json.dumps(document))
    Path("b.json").write_text(json.dumps({**SOUND, "spans": [SPAN]}))
    assert "a.json" in refused(("compare", "a.json", "b.json", "--html", "x.html"))
    assert "a.json" in refused(("compare", "b.json", "a.json", "--json", "-"))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["step_time_s", "tp", "mfu"])
def test_results_without_a_number(refused: Refused, number: str, field: str) -> None:
    good = '{"step_time_s": 1.5, "exposed_s": {"tp": 0.5}, "mfu": 0.25}'
    value = {"step_time_s": "1.5", "tp": "0.5", "mfu": "0.25"}[field]
    Path("a.json").write_text(good)
    Path("b.json").write_text(good.replace(f'"{field}": {value}', f'"{field}": {number}'))
    assert "finite" in refused(("compare", "a.json", "b.json", "--json", "x.json"))


def test_two_kinds(refused: Refused) -> None:
    Path("a.json").write_text(json.dumps({"step_time_s": 1, "exposed_s": {}}))
    Path("b.json").write_text(json.dumps({**SOUND, "spans": [SPAN]}))
    Path("c.json").write_text(json.dumps({**SOUND, "ranks": 2, "spans": [SPAN]}))
    assert "two of the same kind" in refused(("compare", "a.json", "b.json"))
    assert "two timelines" in refused(("compare", "a.json", "a.json", "--html", "x.html"))
    assert "1 and 2 ranks" in refused(("compare", "b.json", "c.json"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(refused: Refused) -> None:
    Path("locked").mkdir(mode=0o500)
    assert "no permission" in refused((*PLAY, "--html", "locked/x.html"))


@pytest.mark.parametrize("model", ["mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v3"])
def test_experts_with_tensor_parallelism_need_their_tokens_cut(refused: Refused, model: str) -> None:
    text = Path("run.yaml").read_text()
    Path("run.yaml").write_text(f"model: {model}\n{text[text.index('cluster') :]}")
    assert "sequence_parallel" in refused(
        ("simulate", "run.yaml", "--set", "layout.mesh.pp=1", "--set", "layout.mesh.dp=4")
    )


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    parsim = f"{sys.executable} -c 'from parsim.cli import main; main()'"
    root = Path(__file__).parents[2]
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.replace("parsim", parsim)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "command", ["parsim simulate missing.yaml", "parsim --fast", "parsim", "parsim schedule --plan /dev/stdin <<< 0F3x"]
)
def test_in_a_process_of_its_own(tmp_path: Path, command: str) -> None:
    done = shell(command, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        "parsim list models | head -1",
        "parsim list models | true",
        "parsim schedule 1f1b --pp 64 --microbatches 256 --json - | head -c 10",
        "parsim --help | true",
    ],
)
def test_a_broken_pipe_is_silent(tmp_path: Path, command: str) -> None:
    assert shell(command, tmp_path).stderr == ""


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    done = shell("parsim schedule 1f1b --pp 2 --microbatches 2 --json /dev/full", tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: /dev/full cannot be written: no space left on device\n"
    done = shell("parsim list models --json - > /dev/full", tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: standard output cannot be written: no space left on device\n"


def test_a_quantity_longer_than_any_float(refused: Refused) -> None:
    """JSON, unlike YAML, spells numbers of any length."""
    document = yaml.safe_load(Path("run.yaml").read_text())
    document["cluster"]["node"] = {"gpu": {"memory_bytes": 10**400}}
    Path("run.json").write_text(json.dumps(document))
    assert "memory_bytes" in refused(("simulate", "./run.json"))
