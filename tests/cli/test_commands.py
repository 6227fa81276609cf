"""Every command does what it says: its JSON has the names that scripts rely on, its files are written, twice alike."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parsim.axes.mesh import coordinates
from parsim.schedules import names
from parsim.spec import catalogue, load_cluster, load_model, load_run

Cli = Callable[..., Any]
COMMANDS = ("schedule", "simulate", "compare", "list", "init", "check")
SCHEDULE_KEYS = {
    "schedule",
    "pp",
    "microbatches",
    "stages_per_rank",
    "times",
    "makespan",
    "ideal",
    "bubble",
    "per_rank",
    "orders",
}
SIMULATE_KEYS = {
    "step_time_s",
    "tokens_per_s",
    "tokens_per_s_per_gpu",
    "model_tflops_per_gpu",
    "mfu",
    "bubble",
    "exposed_s",
    "peak_memory_bytes",
    "fits",
    "per_rank",
    "evidence",
    "warnings",
    "run",
}
RANK_KEYS = {"pipeline_rank", "busy_s", "idle_s", "peak_memory_bytes", "peak_at", "memory_by_category"}
CATEGORIES = {"parameters", "gradients", "optimizer", "activations", "temporaries", "communication", "reserve"}
BUBBLES = {"of_makespan", "of_span", "over_ideal"}


def plain_json(text: str) -> Any:
    """JSON as every reader takes it: no NaN, and a version."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    document = json.loads(text, parse_constant=refuse)
    assert re.fullmatch(r"1\.\d+", document["schema_version"])
    return document


def said_json(cli: Cli, *arguments: object) -> Any:
    """What a command prints with `--json -`: JSON alone, the same bytes twice."""
    first, second = cli(*arguments, "--json", "-"), cli(*arguments, "--json", "-")
    assert (first.code, first.err) == (0, "")
    assert first.out == second.out
    return plain_json(first.out)


# -- schedule


@pytest.mark.parametrize("name", names())
def test_schedule(cli: Cli, name: str) -> None:
    found = said_json(cli, "schedule", name, "--pp", 4, "--microbatches", 8)
    assert set(found) >= SCHEDULE_KEYS
    assert (found["schedule"], found["pp"], found["microbatches"]) == (name, 4, 8)
    assert set(found["bubble"]) >= BUBBLES
    assert found["bubble"]["over_ideal"] == pytest.approx(found["makespan"] / found["ideal"] - 1)
    assert [row["rank"] for row in found["per_rank"]] == [0, 1, 2, 3]
    for row in found["per_rank"]:
        assert set(row) >= {"rank", "busy", "span", "idle", "peak_activations"}
        assert row["busy"] + row["idle"] == pytest.approx(found["makespan"])
    idle = sum(row["idle"] for row in found["per_rank"])
    assert found["bubble"]["of_makespan"] == pytest.approx(idle / (4 * found["makespan"]))
    assert len(found["orders"]) == 4
    assert {type(slot) for order in found["orders"] for slot in order} == {str}


@pytest.mark.parametrize("name", names())
def test_a_plan_written_is_a_plan_read(cli: Cli, name: str) -> None:
    """As CSV (compute ops by rank) and as the command's own JSON, with the same result."""
    times = ("--times", "F=2,I=1.5,W=1,P2P=0.25")
    made = cli("schedule", name, "--pp", 4, "--microbatches", 8, *times, "--csv", "plan.csv", "--json", "plan.json")
    assert made.code == 0
    result = plain_json(Path("plan.json").read_text())
    for file in ("plan.csv", "plan.json"):
        again = said_json(cli, "schedule", "--plan", file, *times)
        for key in ("pp", "microbatches", "stages_per_rank", "makespan", "bubble", "per_rank", "orders", "times"):
            assert again[key] == result[key], key
        checked = cli("check", file)
        assert checked.code == 0
        assert f"{file}: sound; 4 pipeline ranks" in checked.out
        assert cli("schedule", "--plan", file, *times, "--csv", "again.csv", "--pp", 4, "--microbatches", 8).code == 0
        assert Path("again.csv").read_bytes() == Path("plan.csv").read_bytes()


def test_a_plan_as_spreadsheets_write_it(cli: Cli) -> None:
    """With a byte-order mark, and lines that end as on Windows."""
    Path("plan.csv").write_bytes(b"\xef\xbb\xbf0F0,0F1,0B0,0B1\r\n1F0,1B0,1F1,1B1\r\n")
    assert said_json(cli, "schedule", "--plan", "plan.csv")["microbatches"] == 2


def test_schedule_all(cli: Cli) -> None:
    found = said_json(cli, "schedule", "all", "--pp", 3, "--microbatches", 6)
    assert {one["schedule"] for one in found["schedules"]} | {one["schedule"] for one in found["refused"]} == set(
        names()
    )
    assert "dualpipe" in {one["schedule"] for one in found["refused"]}
    assert all(set(one) >= SCHEDULE_KEYS for one in found["schedules"])
    table = cli("schedule", "all", "--pp", 3, "--microbatches", 6)
    assert table.code == 0
    assert all(name in table.out for name in names())
    limited = said_json(cli, "schedule", "all", "--pp", 4, "--microbatches", 8, "--memory-limit", 4)
    assert all(row["peak_activations"] <= 4 for one in limited["schedules"] for row in one["per_rank"])
    assert "gpipe" in {one["schedule"] for one in limited["refused"]}


def test_times_by_stage(cli: Cli) -> None:
    """GPipe of two ranks, by hand: F 1 and 3, B 2 and 1, a message 0.5, two micro-batches."""
    times = "F=1:3,B=2:1,P2P=0.5"
    found = said_json(cli, "schedule", "gpipe", "--pp", 2, "--microbatches", 2, "--times", times)
    # F0 0-1, F0' 1.5-4.5, F1' 4.5-7.5, B' 7.5-8.5 and 8.5-9.5; B 9-11 and 11-13
    assert found["makespan"] == 13
    assert [row["busy"] for row in found["per_rank"]] == [6, 8]


# -- files


def test_every_output_is_written(cli: Cli) -> None:
    outputs = ("--html", "x.html", "--trace", "x.trace.json", "--csv", "x.csv", "--json", "x.json")
    assert cli("schedule", "1f1b", "--pp", 4, "--microbatches", 8, *outputs).code == 0
    outputs = ("--html", "y.html", "--trace", "y.trace.json", "--timeline", "y.csv", "--json", "y.json")
    assert cli("simulate", "run.yaml", *outputs).code == 0
    written = ["run.yaml", *(f"{x}{end}" for x in "xy" for end in (".csv", ".html", ".json", ".trace.json"))]
    assert sorted(os.listdir()) == sorted(written), "and nothing else"
    for letter in "xy":
        page = Path(f"{letter}.html").read_text()
        assert page.lower().startswith("<!doctype html>")
        assert not re.search(r"""<(script|link|img)[^>]*(src|href)=["']?(https?:)?//""", page), "a page is offline"
        events = json.loads(Path(f"{letter}.trace.json").read_text())["traceEvents"]
        assert sum(event["ph"] == "X" for event in events) >= 32


def test_outputs_replace_what_the_user_named(cli: Cli) -> None:
    Path("x.json").write_text("old")
    assert cli("schedule", "1f1b", "--pp", 2, "--microbatches", 2, "--json", "x.json").code == 0
    assert plain_json(Path("x.json").read_text())["pp"] == 2


@pytest.mark.browser
def test_png(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kaleido", reason="the extra [png] is not installed")
    known = ("chromium", "chromium-browser", "google-chrome", "chrome")
    chrome = os.environ.get("PARSIM_CHROMIUM") or next(filter(None, map(shutil.which, known)), None)
    if chrome is None:
        pytest.skip("no Chromium on this machine; PARSIM_CHROMIUM may name one")
    monkeypatch.setenv("BROWSER_PATH", chrome)
    for command in (("schedule", "1f1b", "--pp", 4, "--microbatches", 8), ("simulate", "run.yaml")):
        assert cli(*command, "--png", "x.png").code == 0
        assert Path("x.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        Path("x.png").unlink()


# -- simulate


@pytest.mark.parametrize("name", catalogue.names("runs"))
def test_simulate_every_bundled_run(cli: Cli, name: str) -> None:
    found = said_json(cli, "simulate", name)
    run = load_run(name)
    assert set(found) >= SIMULATE_KEYS
    assert set(found["bubble"]) >= BUBBLES
    assert {"pipeline", "tp", "dp", "optimizer"} <= set(found["exposed_s"])
    assert 0 < sum(found["exposed_s"].values()) < found["step_time_s"]
    assert found["tokens_per_s"] == pytest.approx(
        run.batch.global_batch_size * run.batch.sequence_length / found["step_time_s"]
    )
    assert found["tokens_per_s_per_gpu"] == pytest.approx(found["tokens_per_s"] / run.ranks)
    assert 0 < found["mfu"] < 1
    assert [row["pipeline_rank"] for row in found["per_rank"]] == list(range(run.layout.mesh.pp))
    for row in found["per_rank"]:
        assert set(row) >= RANK_KEYS
        assert set(row["memory_by_category"]) >= CATEGORIES
        assert sum(row["memory_by_category"].values()) == pytest.approx(row["peak_memory_bytes"])
        assert row["busy_s"] + row["idle_s"] == pytest.approx(found["step_time_s"])
    assert found["peak_memory_bytes"] == max(row["peak_memory_bytes"] for row in found["per_rank"])
    assert found["fits"] or found["warnings"], "what does not fit is warned of"
    table = cli("simulate", name)
    assert (table.code, table.err) == (0, "")
    assert f"{found['mfu']:.1%}" in table.out


def test_both_engines_agree(cli: Cli) -> None:
    noise = ("--jitter", "lognormal:0.05", "--slow-rank", "3=1.5")
    for extra in ((), noise):
        path = said_json(cli, "simulate", "run.yaml", *extra)
        events = said_json(cli, "simulate", "run.yaml", "--engine", "events", *extra)
        assert events["step_time_s"] == pytest.approx(path["step_time_s"], rel=1e-12)
        assert [row["busy_s"] for row in events["per_rank"]] == pytest.approx(
            [row["busy_s"] for row in path["per_rank"]], rel=1e-12
        )


def test_set_changes_the_run(cli: Cli) -> None:
    base = said_json(cli, "simulate", "run.yaml")
    changes = ("--set", "layout.mesh.tp=1", "--set", "layout.mesh.dp=4", "--set", "layout.schedule=zb-h1")
    changed = said_json(cli, "simulate", "run.yaml", *changes)
    assert changed["run"]["layout"]["mesh"]["tp"] == 1
    assert changed["run"]["layout"]["schedule"] == "zb-h1"
    assert changed["exposed_s"]["tp"] == 0 < base["exposed_s"]["tp"]
    # the run a result carries is a run
    Path("again.json").write_text(json.dumps(changed["run"]))
    assert said_json(cli, "simulate", "again.json")["step_time_s"] == changed["step_time_s"]


def test_noise_is_reproducible(cli: Cli) -> None:
    noise = ("simulate", "run.yaml", "--jitter", "lognormal:0.1")
    seeds = [said_json(cli, *noise, "--seed", seed)["step_time_s"] for seed in (1, 2, 1)]
    assert seeds[0] == seeds[2] != seeds[1]
    default = said_json(cli, "simulate", "run.yaml")["step_time_s"]
    assert said_json(cli, "simulate", "run.yaml", "--seed", 5)["step_time_s"] == default, "a seed alone is no noise"
    slow = said_json(cli, "simulate", "run.yaml", "--slow-rank", "7=2")["step_time_s"]
    assert default < slow < 2.01 * default
    several = said_json(cli, *noise, "--steps", 5)
    times = several["steps"]["step_time_s"]
    assert len(set(times)) == 5
    assert several["step_time_s"] == sorted(times)[2]
    assert times[0] == said_json(cli, *noise)["step_time_s"]


def test_every_rank(cli: Cli) -> None:
    found = said_json(cli, "simulate", "run.yaml", "--every-rank", "--slow-rank", "5=1.5")
    mesh = load_run("run.yaml").layout.mesh
    assert [row["rank"] for row in found["per_rank"]] == list(range(mesh.size))
    assert [row["pipeline_rank"] for row in found["per_rank"]] == [
        coordinates(mesh, rank).pp for rank in range(mesh.size)
    ]
    busiest = max(row["busy_s"] for row in found["per_rank"])
    assert found["per_rank"][5]["busy_s"] == busiest


def test_many_ranks_fit_on_a_screen(cli: Cli) -> None:
    table = cli("simulate", "llama3-70b-64", "--every-rank")
    assert table.out.count("\n") < 140
    assert "448 more ranks" in table.out


def test_a_plan_instead_of_the_runs_schedule(cli: Cli) -> None:
    assert cli("schedule", "gpipe", "--pp", 2, "--microbatches", 8, "--csv", "plan.csv").code == 0
    own = said_json(cli, "simulate", "run.yaml", "--plan", "plan.csv")
    named = said_json(cli, "simulate", "run.yaml", "--set", "layout.schedule=gpipe")
    assert own["step_time_s"] == named["step_time_s"]
    assert [row["peak_memory_bytes"] for row in own["per_rank"]] == [
        row["peak_memory_bytes"] for row in named["per_rank"]
    ]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox"])
def test_a_config_json_of_the_user(cli: Cli, family: str) -> None:
    """Beside the run file, or its folder; widths under the names each family uses."""
    widths = {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "vocab_size": 1024,
        "max_position_embeddings": 256,
    }
    gpt2 = {"n_embd": 512, "n_layer": 8, "n_head": 8, "n_inner": 2048, "n_positions": 256, "vocab_size": 1024}
    Path("mine").mkdir()
    config = {"model_type": family, **(gpt2 if family == "gpt2" else widths)}
    Path("mine/config.json").write_text(json.dumps(config))
    text = Path("run.yaml").read_text()
    for path in ("mine/config.json", "./mine"):
        Path("run.yaml").write_text(f"model: {path}\n{text[text.index('cluster') :]}")
        found = said_json(cli, "simulate", "run.yaml")
        assert found["run"]["model"]["name"] == "mine"
        assert (found["run"]["model"]["layers"], found["run"]["model"]["hidden"]) == (8, 512)
    Path("mine").rename("my # model: 'x'")
    assert cli("init", "--model", "./my # model: 'x'/config.json", "--gpus", 8, "--out", "new.yaml").code == 0
    assert cli("check", "new.yaml").code == 0


# -- compare


def test_compare(cli: Cli) -> None:
    for name, changes in {"a": (), "b": ("--set", "layout.mesh.tp=1", "--set", "layout.mesh.dp=4")}.items():
        outputs = ("--timeline", f"{name}.timeline.json", "--json", f"{name}.json")
        assert cli("simulate", "run.yaml", *changes, *outputs).code == 0
    recorded = plain_json(Path("a.timeline.json").read_text())
    assert set(recorded) >= {"source", "ranks", "spans", "memory", "run", "evidence"}
    assert (recorded["source"], recorded["ranks"]) == ("sim", 2)
    assert set(recorded["spans"][0]) >= {"rank", "stream", "op", "start_s", "end_s", "waiting_s", "detail"}
    assert set(recorded["memory"][0]) >= {"rank", "t_s", "bytes"}
    for end in (".timeline.json", ".json"):
        found = said_json(cli, "compare", f"a{end}", f"b{end}")
        assert sum(cause["delta"] for cause in found["causes"]) == pytest.approx(found["total"]["delta"], rel=1e-6)
        assert {row["field"] for row in found["differences"]} >= {"layout.mesh.tp", "layout.mesh.dp"}
        same = said_json(cli, "compare", f"a{end}", f"a{end}")
        assert (same["total"]["ratio"], same["total"]["delta"], same["differences"]) == (1, 0, [])
        table = cli("compare", f"a{end}", f"b{end}")
        assert table.code == 0
        assert "layout.mesh.tp" in table.out
    assert cli("compare", "a.timeline.json", "b.timeline.json", "--html", "x.html").code == 0
    assert Path("x.html").read_text().lower().startswith("<!doctype html>")


def test_names_that_a_terminal_cannot_spell(cli: Cli) -> None:
    """Half a surrogate pair, which JSON may spell, and a terminal that knows ASCII alone."""
    assert cli("schedule", "1f1b", "--pp", 2, "--microbatches", 2, "--json", "x.json").code == 0
    Path("x.json").write_text(Path("x.json").read_text().replace('"1f1b"', '"caf\\u00e9 \\ud800"'))
    found = said_json(cli, "schedule", "--plan", "x.json")
    assert found["schedule"] == "caf\u00e9 \ud800"
    command = [sys.executable, "-c", "from parsim.cli import main; main()", "schedule", "--plan", "x.json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONIOENCODING": "ascii"}
    written = [*command, "--html", "x.html", "--json", "again.json"]
    done = subprocess.run(written, env=environment, capture_output=True, timeout=60)
    assert plain_json(Path("again.json").read_text("utf-8")) == found
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(rb"caf\xe9 \ud800: 2 pipeline ranks")
    done = subprocess.run([*command, "--json", "-"], env=environment, capture_output=True, timeout=60)
    assert plain_json(done.stdout.decode("utf-8")) == found


def test_two_files_of_one_name(cli: Cli) -> None:
    Path("sub").mkdir()
    assert cli("simulate", "run.yaml", "--json", "a.json").code == 0
    assert cli("simulate", "run.yaml", "--json", "sub/a.json").code == 0
    assert "sub/a.json / a.json = 1" in cli("compare", "a.json", "sub/a.json").out
    assert "a.json (second) / a.json (first) = 1" in cli("compare", "a.json", "a.json").out


# -- list, init, check


@pytest.mark.parametrize("what", ["schedules", "gpus", "clusters", "models", "runs"])
def test_list(cli: Cli, what: str) -> None:
    rows = said_json(cli, "list", what)[what]
    assert [row["name"] for row in rows] == list(names() if what == "schedules" else catalogue.names(what))
    table = cli("list", what)
    assert table.code == 0
    assert all(row["name"] in table.out for row in rows)


def test_list_says_what_datasheets_say(cli: Cli) -> None:
    """Decimal TB/s and GB/s of one direction, dense bf16: H100 SXM's 3.35 TB/s, 900/2 GB/s, 989 TFLOP/s."""
    gpus = {row["name"]: row for row in said_json(cli, "list", "gpus")["gpus"]}
    h100 = gpus["h100-80g-sxm"]
    assert (h100["hbm_tb_per_s"], h100["nvlink_gb_per_s"]) == pytest.approx((3.35, 450))
    assert h100["bf16_tflops"] == pytest.approx(989, abs=1)
    models = {row["name"]: row for row in said_json(cli, "list", "models")["models"]}
    assert models["llama3-8b"]["parameters"] == models["llama3-8b"]["active_parameters"] == 8_030_261_248
    clusters = {row["name"]: row for row in said_json(cli, "list", "clusters")["clusters"]}
    assert clusters["aws-p4d"]["nic_gb_per_s_per_gpu"] == pytest.approx(4 * 100 / 8 / 8)


DENSE = [name for name in catalogue.names("models") if load_model(name).moe is None]


@pytest.mark.parametrize("cluster", ["dgx-a100", "dgx-h100", "gb200-nvl72", "h800-deepseek", "hgx-mi300x"])
@pytest.mark.parametrize("model", DENSE)
def test_init_writes_what_check_accepts(cli: Cli, model: str, cluster: str) -> None:
    gpus = 4 * 256 * load_cluster(cluster).node.gpus // 8
    made = cli(
        "init",
        "--model",
        model,
        "--cluster",
        cluster,
        "--gpus",
        2048 if cluster == "h800-deepseek" else gpus,
        "--out",
        "new.yaml",
    )
    assert made.err == ""
    assert made.code == 0
    checked = cli("check", "new.yaml")
    assert (checked.code, checked.err) == (0, "")
    assert f"sound; {model} on" in checked.out
    assert "cannot be simulated" not in checked.out


def test_what_init_writes_simulates_and_fits(cli: Cli) -> None:
    for model, gpus in (("llama3-8b", 8), ("llama3-70b", 512), ("gpt3-175b", 1024), ("llama3-405b", 16384)):
        assert cli("init", "--model", model, "--gpus", gpus, "--out", "new.yaml", "--force").code == 0
        assert said_json(cli, "simulate", "new.yaml")["fits"], model


@pytest.mark.parametrize("gpus", [256, 512, 1024])
@pytest.mark.parametrize("model", [name for name in catalogue.names("models") if name not in DENSE])
def test_what_init_writes_of_experts_simulates_and_fits(cli: Cli, model: str, gpus: int) -> None:
    """Experts are cut over ranks of their own, and 61 or 94 layers into nearly equal parts."""
    assert cli("init", "--model", model, "--gpus", gpus, "--out", "new.yaml").err == ""
    assert "cannot be simulated" not in cli("check", "new.yaml").out
    found = said_json(cli, "simulate", "new.yaml")
    assert found["run"]["layout"]["ep"] > 1
    assert found["fits"]


def test_init_overwrites_nothing_unasked(cli: Cli) -> None:
    before = Path("run.yaml").read_bytes()
    assert cli("init").code == 2
    assert Path("run.yaml").read_bytes() == before
    assert cli("init", "--force").code == 0
    assert Path("run.yaml").read_bytes() != before
    printed = cli("init", "--out", "-")
    assert printed.out == Path("run.yaml").read_text()
    assert not Path("-").exists()


def test_check(cli: Cli) -> None:
    for run in ("run.yaml", *catalogue.names("runs")):
        checked = cli("check", run)
        assert (checked.code, checked.err) == (0, "")
        assert checked.out.startswith(f"{run}: sound; ")
    schema = json.loads(cli("check", "--schema").out)
    assert set(schema["properties"]) >= {"model", "cluster", "layout", "batch", "software", "network"}


# -- help


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_imports_nothing_heavy(command: tuple[str, ...]) -> None:
    code = (
        "import sys; from parsim.cli import run; code = run(sys.argv[1:]); "
        "heavy = {'numpy', 'networkx', 'plotly', 'torch', 'simpy', 'rich', 'yaml', 'parsim.spec'} & set(sys.modules); "
        "sys.exit(f'imported {sorted(heavy)}' if heavy else code)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: parsim")
    assert all(name in done.stdout for name in (COMMANDS if not command else ()))


def test_version(cli: Cli) -> None:
    from parsim import __version__

    assert cli("--version").out == f"parsim {__version__}\n"


def test_the_memory_of_any_rank_is_told_byte_by_byte(cli: Cli) -> None:
    """Of the worst rank unless another is asked for; names add up to its peak."""
    found = {rank: said_json(cli, "simulate", "llama3-70b-64", *rank) for rank in ((), ("--memory-rank", "2"))}
    peaks = [row["peak_memory_bytes"] for row in found[()]["per_rank"]]
    for rank, document in found.items():
        ledger = document["memory_ledger"]
        assert ledger["pipeline_rank"] == (2 if rank else peaks.index(max(peaks)))
        assert sum(row["bytes"] for row in ledger["rows"]) == pytest.approx(peaks[ledger["pipeline_rank"]])
        assert ledger["peak"].startswith("step ")
    assert "rank 2 at its peak" in cli("simulate", "llama3-70b-64", "--memory-rank", "2").out
    refused = cli("simulate", "llama3-70b-64", "--memory-rank", "4")
    assert (refused.code, refused.err) == (2, "error: memory rank 4: the run has pipeline ranks 0 to 3\n")


def test_a_run_that_does_not_fit_is_told_what_would(cli: Cli) -> None:
    """Up to three changes with their price; none where it fits."""
    assert "remedies" not in said_json(cli, "simulate", "llama3-70b-64")
    big = ("simulate", "llama3-70b-64", "--set", "layout.micro_batch_size=4")
    document = said_json(cli, *big)
    assert document["fits"] is False
    assert document["memory_margin_bytes"] < 0
    changes = document["remedies"]["changes"]
    assert 1 <= len(changes) <= 3
    for change in changes:
        more = [word for setting in change["set"] for word in ("--set", setting)]
        then = said_json(cli, *big, *more)
        assert then["fits"]
        assert then["step_time_s"] == pytest.approx(change["step_time_s"])
        assert change["slower_s"] == pytest.approx(then["step_time_s"] - document["step_time_s"])
    assert "what would make it fit" in cli(*big).out
