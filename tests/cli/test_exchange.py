"""`parsim export` and `parsim import` as commands: files, notes, refusals."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from parsim.exchange import SOURCES, TARGETS
from parsim.spec import load_run
from parsim.spec.yaml_reader import parse_yaml
from parsim.timeline import timeline_from_document
from tests.cli.conftest import Cli

Refused = Callable[[Sequence[object]], str]
MEGATRON = "--num-layers 8 --hidden-size 256 --num-attention-heads 8 --vocab-size 1024 --seq-length 128 --bf16"


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_export_writes_what_it_names(cli: Cli, target: str) -> None:
    code, out, err = cli("export", "run.yaml", "--to", target, "--out", "there")
    assert (code, out) == (0, "")
    wrote = [line.removeprefix("wrote ") for line in err.splitlines() if line.startswith("wrote ")]
    assert "there" in wrote
    assert all(Path(name).stat().st_size for name in wrote)
    assert all(line.startswith(("note: ", "wrote ")) for line in err.splitlines())


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_what_is_exported_is_imported(cli: Cli, source: str) -> None:
    assert cli("export", "run.yaml", "--to", source, "--out", "there").code == 0
    code, out, err = cli("import", "--from", source, "there", "--like", "run.yaml", "--out", "back.yaml")
    assert (code, out) == (0, ""), err
    run, back = load_run("run.yaml"), load_run("back.yaml")
    # accelerate has no pipelines, and says so.
    assert back.layout.mesh == (
        run.layout.mesh.model_copy(update={"pp": 1}) if source == "accelerate" else run.layout.mesh
    )
    assert back.batch == run.batch
    assert cli("check", "back.yaml").code == 0


def test_what_is_said_is_json_too(cli: Cli) -> None:
    code, out, _ = cli("export", "run.yaml", "--to", "torchtitan", "--out", "recipe.py", "--json", "-")
    document = json.loads(out)
    assert (code, document["files"]) == (0, ["recipe.py", "recipe.csv"])
    assert document["run"] == load_run("run.yaml").document()
    assert {"about", "text"} == set(document["notes"][0])
    code, out, _ = cli(
        "import", "--from", "torchtitan", "recipe.py", "--like", "run.yaml", "--out", "b.yaml", "--json", "-"
    )
    assert (code, json.loads(out)["run"]["layout"]["mesh"]["pp"]) == (0, 2)
    assert cli("export", "run.yaml", "--to", "torchtitan", "--out", "recipe.py").code == 2
    assert cli("export", "run.yaml", "--to", "torchtitan", "--out", "recipe.py", "--force").code == 0


def test_export_and_import_speak_to_standard_output(cli: Cli) -> None:
    code, out, err = cli("export", "run.yaml", "--to", "megatron", "--set", "layout.precision=fp16")
    assert code == 0
    assert "--fp16" in out
    assert "note: cluster" in err
    Path("train.sh").write_text(out)
    code, out, _ = cli("import", "--from", "megatron", "train.sh", "--cluster", "dgx-a100")
    assert code == 0
    assert "dgx-a100" in out
    assert "precision: fp16" in out


def test_a_finalist_of_a_search_and_a_result_are_exported(cli: Cli) -> None:
    run = load_run("run.yaml").document()
    other = {**run, "seed": 7}
    result = {"best": {"run": run}, "top": [{"run": run}, {"run": other}]}
    Path("search.json").write_text(json.dumps(result))
    assert "--seed 7" in cli("export", "search.json#2", "--to", "megatron").out
    assert "--seed 0" in cli("export", "search.json", "--to", "megatron").out
    Path("result.json").write_text(json.dumps({"step_time_s": 1.0, "run": other}))
    assert "--seed 7" in cli("export", "result.json", "--to", "megatron").out
    layout = {**run["layout"], "micro_batch_size": 2}
    last = {
        "layout": layout,
        "switches": {"dp_overlap": False},
        "nodes": 1,
        "sequences": 16,
        "beyond_runs": ["tp_comm"],
    }
    Path("search.json").write_text(json.dumps({**result, "top": [{"run": run}, last]}))
    code, out, err = cli("export", "search.json#2", "--to", "megatron")
    assert (code, "--micro-batch-size 2" in out, "--overlap-grad-reduce" in out) == (0, True, False)
    assert "note: tp_comm: the search has priced it" in err
    Path("plain.json").write_text(json.dumps(other))
    assert "--seed 7" in cli("export", "plain.json", "--to", "megatron").out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("export", "run.yaml"), "--to"),
        (("export", "run.yaml", "--to", "megatronn"), "did you mean 'megatron'"),
        (("export", "nope", "--to", "megatron"), "no bundled run"),
        (("export", "search.json#3", "--to", "megatron"), "1 to 1 would do"),
        (("export", "none.json", "--to", "megatron"), "found no layout"),
        (("export", "none.json#2", "--to", "megatron"), "found no layout"),
        (("export", "search.json#0", "--to", "megatron"), "a number from 1"),
        (("export", "search.json#x", "--to", "megatron"), "a number from 1"),
        (("export", "empty.json", "--to", "megatron"), "must be an object"),
        (("export", "bare.json", "--to", "megatron"), "holds no `run`"),
        (("export", "run.yaml", "--to", "megatron", "--out", "no/where"), "is not a directory"),
        (("export", "run.yaml", "--to", "megatron", "--json", "-"), "name a file with --out"),
        (("export", "run.yaml", "--to", "chakra"), "is binary"),
        (("import", "train.sh"), "--from"),
        (("import", "--from", "megatron", "nope.sh"), "no such file"),
        (("import", "--from", "megatron", "train.sh", "train.sh"), "a run is read from one"),
        (("import", "--from", "megatorn", "train.sh"), "did you mean 'megatron'"),
        (("import", "--from", "torch-csv", "train.sh"), "--plan FILE"),
        (("import", "--from", "megatron", "train.sh", "--gpus", 0), "--gpus 0"),
        (("import", "--from", "megatron", "train.sh", "--cluster", "dgx-h1000"), "did you mean 'dgx-h100'"),
        (("import", "--from", "megatron", "train.sh", "--like", "nope"), "no bundled run"),
        (("import", "--from", "megatron", "bytes.sh"), "not UTF-8"),
    ],
)
def test_refusals_are_one_line(refused: Refused, arguments: Sequence[object], says: str) -> None:
    run = load_run("run.yaml").document()
    Path("search.json").write_text(json.dumps({"top": [{"run": run}]}))
    Path("empty.json").write_text("[]")
    Path("none.json").write_text(json.dumps({"space": 3, "best": None, "top": []}))
    Path("bare.json").write_text(json.dumps({"best": {"layout": {}}}))
    Path("train.sh").write_text(f"torchrun --nproc-per-node 1 pretrain_gpt.py {MEGATRON} --micro-batch-size 1\n")
    Path("bytes.sh").write_bytes(b"\xff\xfe\x00--num-layers")
    assert says in refused(arguments)


@pytest.mark.parametrize("model", ["m.json", "{name: ./m.json, layers: 4}"])
def test_what_lies_beside_a_run_is_found_from_another_folder(cli: Cli, model: str) -> None:
    run = load_run("run.yaml")
    Path("there").mkdir()
    Path("there/m.json").write_text(json.dumps({**run.document()["model"], "name": "beside"}))
    document = {**run.document(), "model": parse_yaml(model, "")}
    Path("there/like.json").write_text(json.dumps(document))
    assert cli("export", "there/like.json", "--to", "deepspeed", "--out", "ds.json").code == 0
    imported = cli("import", "--from", "deepspeed", "ds.json", "--like", "there/like.json", "--out", "there/back.yaml")
    assert imported.code == 0, imported.err
    assert load_run("there/back.yaml").model == load_run("there/like.json").model
    Path("here.json").write_text(Path("there/m.json").read_text())
    imported = cli("import", "--from", "deepspeed", "ds.json", "--model", "here.json", "--out", "there/back.yaml")
    assert (imported.code, load_run("there/back.yaml").model.name) == (0, "beside"), imported.err


def test_a_folder_of_the_same_name_hides_no_bundled_run(cli: Cli) -> None:
    Path("tiny-local").mkdir()
    assert cli("export", "tiny-local", "--to", "deepspeed", "--out", "ds.json").code == 0
    imported = cli("import", "--from", "deepspeed", "ds.json", "--like", "tiny-local", "--out", "back.yaml")
    assert (imported.code, load_run("back.yaml").model) == (0, load_run("tiny-local").model), imported.err


def test_a_profilers_trace_becomes_a_timeline_that_compare_reads(cli: Cli) -> None:
    events = [
        {"ph": "X", "cat": "user_annotation", "name": f"PP:0{kind}0", "ts": start, "dur": 50, "tid": 1}
        for kind, start in (("F", 0), ("B", 60))
    ]
    events += [
        {"ph": "X", "cat": "cpu_op", "name": f"aten::mm é{n}", "ts": 10 * n, "dur": 8, "tid": 1} for n in range(9)
    ]
    Path("trace.json").write_text(json.dumps({"traceEvents": events}))
    code, out, err = cli("import", "--from", "kineto", "trace.json", "--out", "measured.json")
    assert (code, out) == (0, ""), err
    document = json.loads(Path("measured.json").read_text())
    assert [span["op"] for span in document["spans"] if span["stream"] == "compute"] == ["0F0", "0B0"]
    assert timeline_from_document(document).makespan_s == pytest.approx(110e-6)
    assert cli("compare", "measured.json", "measured.json").code == 0
