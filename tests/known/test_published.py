"""Published runs: what a record means as a run, what is predicted for a handful of them, and how errors are counted."""

import copy
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from parsim.errors import ParsimError, SpecError
from parsim.simulation import simulate
from parsim.spec import Run

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "published"

# Step time in s and what names it: three schedules, FSDP, ZeRO-3 by tensors, ZeRO-1, short pipelines, Blackwell.
STEPS = {
    "sc21-t1-1.7b": 3.528,  # arXiv 2104.04473 table 1
    "sc21-t2-zero3-174.6b-384": 81.579,  # arXiv 2104.04473 table 2
    "korth-t5-22b-full": 1.42,  # arXiv 2205.05198 table 5
    "zb-t4-6.2b-1f1b-m24": None,  # arXiv 2401.10241 table 4
    "zb-t4-1.5b-1f1b-i-m24": None,
    "simumax-b200-llama3_70b_l12_tp1_pp2_dp4_mbc4_cef": 0.843,  # MooreThreads/SimuMax@4dcaae5 docs/b200
}
BUBBLES = (
    "zb-t5-bubble-1.5b-1f1b-m24",
    "zb-t5-bubble-6.2b-zb-h1-m32",
    "zb-t5-bubble-1.5b-zb-h2-m64",
    "zb-t5-bubble-6.2b-zb-1p-m24",
    "zb-t5-bubble-1.5b-zb-2p-m32",
)
ROOMS = ("model", "layout", "software", "network")


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, Any]]:
    """The benchmark's modules, and the records by id."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARK))
        names = ("records", "predict", "scoring", "summary", "page")
        found: dict[str, Any] = {name: importlib.import_module(name) for name in names}
        records = found["records"].read_records(BENCHMARK / "published.yaml")
        yield {**found, "by_id": {record["id"]: record for record in records}}


def changed(record: Any, **values: Any) -> Any:
    """A copy with other fields, named with two underscores for a dot."""
    copied = copy.deepcopy(dict(record))
    for path, value in values.items():
        *rooms, field = path.split("__")
        room = copied
        for name in rooms:
            room = room[name]
        room[field] = value
    return copied


def run(modules: dict[str, Any], record: Any) -> Run:
    found: Run = modules["records"].run_of(modules["records"].facts_of(record))
    return found


def test_every_record_names_a_public_source(modules: dict[str, Any]) -> None:
    import re

    address = re.compile(r"arXiv \d{4}\.\d{5}|[\w.-]+/[\w.-]+@[0-9a-f]{7,40} \S")
    assert len(modules["by_id"]) > 500
    for record in modules["by_id"].values():
        assert address.search(f"{record['source']} {record['source_ref']}"), record["id"]


def test_a_record_becomes_a_run_field_by_field(modules: dict[str, Any]) -> None:
    found = run(modules, modules["by_id"]["sc21-t1-76.1b"])
    assert (found.layout.mesh.tp, found.layout.mesh.dp, found.layout.mesh.pp) == (8, 32, 4)
    assert (found.layout.schedule, found.layout.stages_per_rank, found.microbatches) == ("interleaved", 3, 28)
    assert (found.layout.precision, found.layout.recompute.mode, found.layout.split) == ("fp16", "full", "even")
    assert (found.model.layers, found.model.hidden, found.model.norm, found.model.gated_mlp) == (
        60,
        10240,
        "layer",
        False,
    )
    assert (found.software.attention, found.software.gradient_dtype, found.software.dp_overlap) == (
        "unfused",
        "fp16",
        False,
    )
    assert found.batch.global_batch_size == 1792
    node = found.cluster.node
    assert (node.gpu.name, node.gpus, node.nvlink_domain, node.nics, node.nic_bytes_per_s) == (
        "a100-80g-sxm",
        8,
        8,
        8,
        25e9,
    )
    assert found.cluster.nodes == 128


@pytest.mark.parametrize(
    ("record", "change", "path", "value"),
    [
        ("zb-t4-1.5b-zb-2p-m24", {"layout__offload": 3}, "layout.offload.activation_layers", 3),
        ("zb-t4-1.5b-zb-2p-m24", {"layout__offload": ["core_attn"]}, "layout.offload.modules", ("core_attn",)),
        ("sc21-t1-1.7b", {"network__nics_per_node": 4}, "cluster.node.nic_bytes_per_s", 50e9),
        ("sc21-t1-1.7b", {"network__fabric": "efa"}, "cluster.fabric.kind", "efa"),
        ("sc21-t1-1.7b", {"gpu": "h100-80g-sxm", "model__sliding_window": 128}, "model.sliding_window_every", 2),
        ("sc21-t1-76.1b", {"layout__stage_layout": [5] * 12}, "layout.split", (5,) * 12),
        ("sc21-t1-76.1b", {"layout__schedule": "zb_v", "layout__vp": 2}, "layout.schedule", "zb-v"),
        ("sc21-t1-76.1b", {"layout__schedule": "dualpipe"}, "layout.stages_per_rank", None),
        ("zb-t4-1.5b-zb-2p-m24", {}, "layout.activation_limit_stages", 16),
        ("zb-t4-1.5b-zb-2p-m24", {}, "layout.schedule", "zb-auto"),
        (
            "zb-t4-1.5b-zb-2p-m24",
            {"layout__schedule": "zb_auto_1p", "layout__activation_limit_stages": None},
            "layout.activation_limit_stages",
            8,
        ),
        ("mzoo-qwen3-235b-h100-0", {"layout__etp": 2, "layout__ep": 16}, "layout.expert_tp", 2),
        ("mzoo-qwen3-235b-h100-0", {}, "layout.ep", 32),
        ("automodel-dsv3-1024", {}, "model.mla.q_rank", 1536),
        ("automodel-dsv3-1024", {}, "model.moe.shared_ffn", 2048),
        ("simumax-b200-llama3_70b_l12_tp2_cp4_pp1_dp1_seq32768_mbc4_cef", {}, "layout.cp_comm", "a2a"),
    ],
)
def test_words_of_the_format_and_of_a_run(
    modules: dict[str, Any], record: str, change: dict[str, Any], path: str, value: object
) -> None:
    found: Any = run(modules, changed(modules["by_id"][record], **change))
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


def test_what_a_predictor_must_not_read_changes_nothing(modules: dict[str, Any]) -> None:
    facts_of = modules["records"].facts_of
    for record in list(modules["by_id"].values())[::20]:
        other = changed(
            record, id="x", source="x", source_ref="x", group="x", cluster="x", model__name="x", notes="x", measured={},
            derived={}, config_gaps=["x"], assumed=[], core=False, basis="x", release="x",
        )  # fmt: skip
        assert facts_of(record) == facts_of(other)


@pytest.mark.parametrize("room", ROOMS)
def test_a_field_that_the_format_does_not_have_is_refused_by_name(modules: dict[str, Any], room: str) -> None:
    record = changed(modules["by_id"]["sc21-t1-1.7b"], **{f"{room}__colour": "blue"})
    with pytest.raises(SpecError, match=rf"^{room}\.colour: the format has no such field$"):
        run(modules, record)


def test_every_field_that_any_record_states_is_known(modules: dict[str, Any]) -> None:
    said = []
    for record in modules["by_id"].values():
        try:
            run(modules, record)
        except ParsimError as error:
            said.append(str(error))
    assert [line for line in said if "no such field" in line or "\n" in line] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_gpus": 31}, "n_gpus 31: tp \\* cp \\* dp \\* pp is 32"),
        ({"layout__dp": None}, "layout.dp is not stated"),
        ({"layout__recompute": {"mode": "see_measured"}}, "layout.recompute.mode see_measured"),
        ({"layout__schedule": "spiral"}, "layout.schedule spiral: one of none, 1f1b"),
        ({"layout__pp": 2, "n_gpus": 64}, "layout.schedule none: pp is 2"),
        ({"gpu": "abacus"}, "abacus"),
        ({"model__attention": "linear"}, "model.attention linear"),
        ({"model": None}, "model: a mapping"),
        ({"precision": None}, "precision"),
    ],
)
def test_what_a_run_cannot_say_is_refused_in_one_line(
    modules: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ParsimError, match=words) as caught:
        run(modules, changed(modules["by_id"]["sc21-t1-1.7b"], **change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", STEPS)
def test_steps_near_their_measurement(modules: dict[str, Any], name: str) -> None:
    record = modules["by_id"][name]
    measured = modules["scoring"].measured_of(record)["step_time_s"]
    assert STEPS[name] in (None, measured)
    found, refused = modules["predict"].predictions([record])
    assert [refusal for refusal in refused if refusal.figure == "step_time_s"] == []
    assert found[name]["step_time_s"] == pytest.approx(measured, rel=0.12)


def test_steps_with_activations_on_the_host(modules: dict[str, Any]) -> None:
    """12 runs on GB200 and GB300; without its copies the one of Qwen3 235B would be 17 % too fast."""
    records = [record for record in modules["by_id"].values() if (record.get("layout") or {}).get("offload")]
    found, _ = modules["predict"].predictions(records)
    errors = {
        record["id"]: found[record["id"]]["step_time_s"] / modules["scoring"].measured_of(record)["step_time_s"] - 1
        for record in records
    }
    assert len(errors) == 12
    assert sum(map(abs, errors.values())) / 12 < 0.05
    assert max(map(abs, errors.values())) < 0.17
    assert abs(errors["mzoo-qwen3-235b-gb200-mxfp8-s4096"]) < 0.06


@pytest.mark.parametrize("name", ["zb-t4-1.5b-1f1b-i-m24", "sc21-t1-1.7b"])
def test_what_is_predicted_is_what_simulate_says(modules: dict[str, Any], name: str) -> None:
    record = modules["by_id"][name]
    found, _ = modules["predict"].predictions([record])
    result = simulate(run(modules, record))
    assert found[name]["step_time_s"] == pytest.approx(result.step_time_s, rel=1e-12)


@pytest.mark.parametrize("name", BUBBLES)
def test_bubble_rates_of_given_op_times(modules: dict[str, Any], name: str) -> None:
    """arXiv 2401.10241 table 5, inputs table 9: within a hundredth of a point."""
    record = modules["by_id"][name]
    found, _ = modules["predict"].predictions([record])
    assert found[name]["bubble_rate"] == pytest.approx(record["measured"]["bubble_rate"], abs=1e-4)


def test_one_layer(modules: dict[str, Any]) -> None:
    """arXiv 2205.05198 table 4: a layer of the 22B model, forward 7.7 ms and backward 11.9 ms; the model's head and
    its number of layers have no part in it."""
    record = modules["by_id"]["korth-t4-layer-22b-baseline"]
    found, _ = modules["predict"].predictions([record])
    layer = found[record["id"]]
    assert layer["layer_fwd_ms"] == pytest.approx(7.7, rel=0.1)
    assert layer["layer_bwd_ms"] == pytest.approx(11.9, rel=0.1)
    other, _ = modules["predict"].predictions([changed(record, model__layers=3, model__vocab=1024)])
    assert other[record["id"]] == pytest.approx(layer)


def test_tokens_that_rounding_left_out_are_counted(modules: dict[str, Any]) -> None:
    record = modules["by_id"]["sc21-t1-1.7b"]
    more = changed(record, layout__global_batch=record["layout"]["global_batch"] * 1.5)
    times = [modules["predict"].predictions([each])[0][record["id"]]["step_time_s"] for each in (record, more)]
    assert times[1] == pytest.approx(1.5 * times[0])


def made_up(group: str, time_s: float, predicted: float, **more: Any) -> tuple[dict[str, Any], dict[str, float]]:
    name = f"{group}-{time_s}-{predicted}-{len(more)}"
    record = {
        "id": name, "source": "a", "group": group, "kind": "e2e", "core": True, "gpu": "g", "precision": "bf16",
        "model": {"moe": None}, "layout": {"global_batch": 8, "schedule": "1f1b"}, "software": {"framework": "f"},
        "measured": {"step_time_s": time_s}, "derived": {}, "config_gaps": [], "assumed": [], **more,
    }  # fmt: skip
    return record, {"step_time_s": predicted}


def test_errors_and_their_means(modules: dict[str, Any]) -> None:
    made = [
        made_up("a", 10.0, 11.0),
        made_up("a", 10.0, 8.0),
        made_up("a", 10.0, 10.3, config_gaps=["kernel unknown"]),
        made_up("b", 4.0, 5.0),
        made_up("b", 4.0, 40.0, core=False, precision="fp16"),
    ]
    records = [record for record, _ in made]
    found = modules["summary"].summary({record["id"]: p for record, p in made}, records, worst=2)
    core = found["step"]["core"]
    assert core["n"] == 4
    assert core["mean"] == pytest.approx((10 + 20 + 3 + 25) / 4)
    assert core["macro"] == pytest.approx((11 + 25) / 2)
    assert core["max"] == pytest.approx(25)
    assert core["p90"] == pytest.approx(20 + 0.7 * 5)
    assert core["bias"] == pytest.approx((10 - 20 + 3 + 25) / 4)
    assert found["step"]["core without config_gaps"]["n"] == 3
    assert found["step"]["not core"]["max"] == pytest.approx(900)
    assert found["step"]["core moe"] == {"n": 0, **dict.fromkeys(("mean", "macro", "p90", "max", "bias"))}
    assert found["coverage"]["step, core"] == {"predicted": 4, "measured": 4}
    assert [row["percent"] for row in found["worst"]] == [25, -20]
    assert found["by precision"]["bf16"]["n"] == 4


def test_rates_of_bubbles_are_compared_in_points_and_layers_count_twice(modules: dict[str, Any]) -> None:
    bubble, _ = made_up("z", 1, 1, kind="schedule", core=False, measured={"bubble_rate": 0.1})
    layer, _ = made_up("l", 2, 2, kind="layer", measured={"layer_fwd_ms": 2.0, "layer_bwd_ms": 4.0})
    predictions = {bubble["id"]: {"bubble_rate": 0.11}, layer["id"]: {"layer_fwd_ms": 3.0, "layer_bwd_ms": 4.0}}
    found = modules["summary"].summary(predictions, [bubble, layer], worst=5)
    assert found["bubble"]["all"]["mean"] == pytest.approx(1)
    assert (found["layer"]["core dense"]["n"], found["layer"]["core dense"]["mean"]) == (2, pytest.approx(25))
    assert found["worst"] == []


def test_faster_of_two_layouts(modules: dict[str, Any]) -> None:
    made = [
        made_up("a", 10.0, 10.0),
        made_up("a", 20.0, 9.0),
        made_up("a", 10.2, 7.0),  # within 5 % of the first: no pair
        made_up("a", 40.0, 90.0, gpu="other"),
    ]
    records = [record for record, _ in made]
    errors = list(modules["scoring"].errors_of({record["id"]: p for record, p in made}, records))
    assert modules["scoring"].pairs(errors) == (2, 1)


def test_from_a_file_to_a_score_and_a_page(modules: dict[str, Any], tmp_path: Path) -> None:
    records = [modules["by_id"][name] for name in ("sc21-t1-1.7b", "korth-fig1-7-mem-22b", BUBBLES[0])]
    data, out, refused, page = (tmp_path / name for name in ("data.yaml", "out.json", "refused.txt", "page.html"))
    data.write_text(yaml.safe_dump(records))
    command = [sys.executable, str(BENCHMARK / "predict.py"), "--data", str(data), "--out", str(out)]
    subprocess.run([*command, "--refused", str(refused)], check=True, capture_output=True)
    predictions = json.loads(out.read_text())
    assert set(predictions) == {"sc21-t1-1.7b", BUBBLES[0]}
    assert refused.read_text().startswith("korth-fig1-7-mem-22b: all: layout.recompute.mode see_measured")
    command = [sys.executable, str(BENCHMARK / "score.py"), str(out), "--data", str(data), "--json", "-"]
    done = subprocess.run([*command, "--html", str(page)], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["step"]["core"]["n"] == 1
    assert found["coverage"]["bubble"] == {"predicted": 1, "measured": 1}
    text = page.read_text()
    assert "sc21-t1-1.7b" in text
    assert 'src="http' not in text


def test_a_file_that_is_no_list_of_records_is_refused(modules: dict[str, Any], tmp_path: Path) -> None:
    for text in ("a: 1", "- 1", "- {id: a}\n- {id: a}", "{"):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(SpecError) as caught:
            modules["records"].read_records(tmp_path / "data.yaml")
        assert "\n" not in str(caught.value)


def test_a_layer_without_its_attention(modules: dict[str, Any]) -> None:
    """NVIDIA/Megatron-LM@d98e8a6 moe_perf baseline: experts alone, forward 4.327 ms and backward 7.684 ms."""
    record = modules["by_id"]["mcore-moeperf-mixtral_a2a_tp1ep8_bf16"]
    found, _ = modules["predict"].predictions([record])
    part = found[record["id"]]
    assert part["layer_fwd_ms"] == pytest.approx(4.327, rel=0.15)
    assert part["layer_bwd_ms"] == pytest.approx(7.684, rel=0.15)
    whole, _ = modules["predict"].predictions([changed(record, software__attention="cudnn")])
    assert all(whole[record["id"]][name] > part[name] for name in ("layer_fwd_ms", "layer_bwd_ms"))
    cut = changed(record, layout__tp=2, layout__dp=4, layout__ep=4, layout__sequence_parallel=True)
    _, refused = modules["predict"].predictions([cut])
    assert "tp 1 and cp 1" in next(line.reason for line in refused if line.figure == "layer_ms")


def test_which_memory_a_log_states(modules: dict[str, Any]) -> None:
    """pytorch/torchtitan@b5bcd76, Llama 3 8B on 8 GPUs: 82.4 GiB reserved."""
    record = modules["by_id"]["titan-8b-8-fsdp"]
    peaks = {}
    for name in ("max_reserved", "max_allocated", "device"):
        found, _ = modules["predict"].predictions([changed(record, software__memory_reports=name)])
        peaks[name] = found[record["id"]]["peak_mem_gib"]
    assert peaks["max_reserved"] == pytest.approx(82.4, rel=0.03)
    assert peaks["max_allocated"] * 1.02 < peaks["max_reserved"] <= 1.09 * peaks["max_allocated"]
    assert peaks["device"] == pytest.approx(peaks["max_reserved"] + 1.5)
    small = changed(record, gpu="a100-80g-sxm", software__memory_reports="device")
    found, _ = modules["predict"].predictions([small])
    assert found[record["id"]]["peak_mem_gib"] == 80  # what the device has


@pytest.mark.parametrize("name", ["sc21-t1-1.7b", "zb-t4-6.2b-1f1b-m24", "automodel-qwen3-30b-8"])
def test_copies_of_a_run_change_in_the_right_direction(modules: dict[str, Any], name: str) -> None:
    record = modules["by_id"][name]
    layout, model = record["layout"], record["model"]
    head_dim = model.get("head_dim", model["hidden"] // model["heads"])
    more = {
        "twice the batch": changed(
            record, layout__global_batch=2 * layout["global_batch"], layout__n_microbatches=2 * layout["n_microbatches"]
        ),
        "more layers": changed(record, model__layers=model["layers"] + layout["pp"]),
        "wider": changed(record, model__hidden=model["hidden"] * 9 // 8, model__head_dim=head_dim),
    }
    predict = modules["predict"].predictions
    once = predict([record])[0][name]["step_time_s"]
    factors = {what: predict([copied])[0][name]["step_time_s"] / once for what, copied in more.items()}
    assert 1.5 < factors["twice the batch"] < 2.01
    assert 1.01 < factors["more layers"] < 1 + 1.5 * layout["pp"] / model["layers"]
    assert 1.02 < factors["wider"] < 1.3
    newer = {"a100-80g-sxm": "h100-80g-sxm", "h100-80g-sxm": "b200-180g-sxm"}[record["gpu"]]
    assert predict([changed(record, gpu=newer)])[0][name]["step_time_s"] < once


def test_peaks_that_tell_stand_apart_from_those_that_do_not(modules: dict[str, Any]) -> None:
    """Whole GB are noise, what the device has is no demand, and gaps of a configuration are not errors of a ledger."""
    by_id = modules["by_id"]
    exact, whole, gaps = by_id["titan-8b-128-fsdp"], by_id["zb-t4-6.2b-1f1b-m24"], by_id["titan-405b-512-1f1b"]
    capped = changed(exact, measured__peak_mem_gib=88.0)
    capped["id"] = "capped"
    records = [exact, whole, gaps, capped]
    predictions, _ = modules["predict"].predictions(records)
    found = modules["summary"].summary(predictions, records, 1)["memory"]
    names = ("without config_gaps", "with config_gaps", "whole GB", "capped by the device", "all")
    assert {name: found[name]["n"] for name in names} == dict(zip(names, (1, 1, 1, 1, 4), strict=True))
    assert found["without config_gaps"]["max"] < 2
    assert found["with config_gaps"]["max"] == pytest.approx(
        abs(predictions[gaps["id"]]["peak_mem_gib"] / 82.5 - 1) * 100, abs=1e-3
    )


def test_every_rank_that_was_measured_is_compared(modules: dict[str, Any]) -> None:
    """MooreThreads/SimuMax: eight GPUs in two stages, 66.55 GiB on the first four and 62.97 on the others."""
    record = modules["by_id"]["simumax-b200-llama3_70b_l12_tp1_pp2_dp4_mbc4_cef"]
    predictions, _ = modules["predict"].predictions([record])
    assert len(predictions[record["id"]]["peak_mem_by_pipeline_rank_gib"]) == 2
    errors = list(modules["scoring"].rank_errors(predictions, [record]))
    assert [error.measured for error in errors] == [66.55] * 4 + [62.97] * 4
    assert max(abs(error.value) for error in errors) < 0.005
    assert modules["summary"].summary(predictions, [record], 1)["memory"]["every rank of them"]["n"] == 8


def test_peaks_without_gaps_are_told_closely(modules: dict[str, Any]) -> None:
    """Of every such record of the file whose framework logs memory: the mean and the largest error."""
    told = [
        record
        for record in modules["by_id"].values()
        if (record.get("measured") or {}).get("peak_mem_gib") is not None and not record.get("config_gaps")
    ]
    assert len(told) > 30
    predictor = modules["predict"]
    errors = []
    for record in told:
        facts = predictor.facts_of(record)
        figures = predictor._memory(facts, predictor.run_of(facts))
        errors.append(abs(figures["peak_mem_gib"] / record["measured"]["peak_mem_gib"] - 1))
    assert sum(errors) / len(errors) < 0.01
    assert max(errors) < 0.03
