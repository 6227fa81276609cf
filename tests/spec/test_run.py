"""Runs: what is refused and in which words, what is assumed, and that a run survives every way of copying it."""

import copy
import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from parsim.errors import LayoutError, SpecError
from parsim.spec import Layout, Mesh, Run, Software, catalogue, evidence_of, load_run, run_from_document
from parsim.spec.base import FrozenMap
from parsim.spec.software import PRESETS

REFUSED_VALUES = [
    ("layout.micro_batch_size", "1.5", "layout.micro_batch_size 1.5: must be a whole number"),
    ("layout.micro_batch_size", "2.0", "must be a whole number"),
    ("layout.micro_batch_size", "true", "must be a whole number"),
    ("layout.micro_batch_size", "'2'", "must be a whole number"),
    ("layout.micro_batch_size", "0", "must be at least 1"),
    ("layout.micro_batch_size", "-1", "must be at least 1"),
    ("layout.micro_batch_size", "null", "must be a whole number"),
    ("layout.micro_batch_size", "99999999999999999999", "must be"),
    ("layout.mesh.tp", ".nan", "layout.mesh.tp nan: must be a whole number"),
    ("layout.mesh.tp", ".inf", "must be a whole number"),
    ("layout.mesh", "3", "must be a mapping"),
    ("layout.mesh.tpp", "2", "layout.mesh.tpp: no such field; did you mean 'tp'?"),
    ("layuot", "{}", "layuot: no such field; did you mean 'layout'?"),
    ("layout.zero", "4", "must be at most 3"),
    ("layout.zero", "true", "must be a whole number"),
    ("layout.precision", "bf61", "did you mean 'bf16'"),
    ("layout.sequence_parallel", "1", "must be true or false"),
    ("layout.sequence_parallel", "yes", "must be true or false"),
    ("layout.recompute", "everything", "layout.recompute.mode 'everything'"),
    ("layout.recompute", "{mode: full, modules: [mlp]}", "belong to mode selective"),
    ("layout.recompute", "{mode: selective, modules: [core_atn]}", "did you mean 'core_attn'"),
    ("layout.split", "uneven", "layout.split: write even"),
    ("layout.split", "[1, -1]", "part 1 has -1 layers"),
    ("layout.split", "[1, 1.5]", "part 1 has 1.5 layers"),
    ("layout.split", "Et|tL|t", "the loss L stands once, at the end"),
    ("layout.split", "Et*999999|(tttttttttttttttt)*999999L", "spells more than"),
    ("layout.cp_comm", "rings", "did you mean 'ring'"),
    ("software.atention", "flash2", "did you mean 'attention'"),
    ("software.attention_dropout", "1", "must be below 1"),
    ("software.attention_dropout", ".nan", "finite"),
    ("software.framework", "3", "software.framework 3: one of megatron-core"),
    ("software.cuda_graphs", "[attention]", "list of the captured parts"),
    ("software", "fast", "software 'fast': must be a mapping"),
    ("batch.sequence_length", "0", "must be at least 1"),
    ("batch", "null", "must be a mapping"),
    ("model.layers", "0", "model.layers 0: must be at least 1"),
    ("model.kv_heads", "3", "does not divide heads"),
    ("model.moe", "{experts: 4, topk: 8, expert_ffn: 64}", "topk 8 is more than the 4 experts"),
    ("model.norm", "batch", "one of rms, layer"),
    ("model", "3", "model 3: write a bundled name"),
    ("model", "llama-3-8b", "did you mean 'llama3-8b'"),
    ("model", "null", "model None: must be a mapping"),
    ("cluster", "dgx-h10", "did you mean 'dgx-h100'"),
    ("cluster.nodes", "0", "must be at least 1"),
    ("cluster.node", "dgx-h10", "did you mean 'dgx-h100'"),
    ("cluster.node.gpu", "h100-80-sxm", "did you mean 'h100-80g-sxm'"),
    ("cluster.node.gpu.memory_bytes", "80 GX", "unit 'GX' is not one of bytes"),
    ("cluster.node.gpu.memory_bytes", "0", "must be above 0"),
    ("cluster.node.gpu.memory_bytes", "-5 GB", "must be finite and not negative"),
    ("cluster.node.gpu.memory_bytes", ".inf", "must be finite"),
    ("cluster.node.gpu.memory_bytes", "true", "is not a quantity"),
    ("cluster.node.gpu.hbm_bytes_per_s", "3.35 TB", "unit 'TB' is not one of bytes/s"),
    ("cluster.node.gpu.efficiency.matmul.bf16", "1.2", "must be at most 1"),
    ("cluster.node.gpu.efficiency.matmul.bf16", "69 %", "must be a number"),
    ("cluster.fabric.kind", "infiniband", "one of ib"),
    ("network.nic_gbps_per_gpu", "-1", "must be above 0"),
    ("network.nics", "8", "did you mean 'nics_per_node'"),
    ("seed", "-1", "must be at least 0"),
    ("name", "''", "must not be empty"),
]

REFUSED_LAYOUTS = [
    (("layout.mesh.dp=4",), "tp 2 * cp 1 * dp 4 * pp 4 = 32 ranks", "dp 2 or nodes 4 would do"),
    (("layout.mesh.tp=3", "layout.mesh.dp=1"), "12 ranks", "a mesh of 16 ranks would do"),
    (("layout.mesh.tp=16", "layout.mesh.pp=1", "layout.mesh.dp=1"), "must divide the attention heads, 8", "8 would do"),
    (
        ("model.heads=6", "model.kv_heads=3", "model.hidden=66"),
        "3 kv_heads can neither be cut nor duplicated",
        "1 or 3",
    ),
    (("model.ffn=127",), "must divide ffn, 127", "1 or 127 would do"),
    (("batch.global_batch_size=15",), "multiple of micro_batch_size 1 * dp 2 = 2", "14 or 16 would do"),
    (("batch.global_batch_size=1",), "= 2", "; 2 would do"),
    (("layout.mesh.cp=2", "layout.mesh.dp=1", "batch.sequence_length=130"), "2 * cp = 4 pieces", "128 or 132 would do"),
    (("layout.sequence_parallel=true", "batch.sequence_length=129"), "= 2", "128 or 130 would do"),
    (("layout.mesh.cp=4", "layout.mesh.pp=1", "layout.cp_comm=a2a"), "kv_heads of a tp rank", "2 would do"),
    (("layout.ep=2",), "small has no experts", "ep 1 would do"),
    (
        ("model.moe={experts: 6, topk: 2, expert_ffn: 64}", "layout.ep=4"),
        "must divide the experts, 6",
        "3 or 6 would do",
    ),
    (("model.moe={experts: 6, topk: 2, expert_ffn: 64}", "layout.ep=3"), "dp * cp * tp = 4", "ep 2 would do"),
    (("layout.zero_group=4",), "must divide dp * cp, 2", "2 would do"),
    (("layout.fsdp=true", "layout.zero=1"), "zero 1", "zero 3 would do"),
    (("layout.precision=fp8", "cluster.name=dgx-a100"), "a100-80g-sxm multiplies", "one of these would do"),
    (("software.attention=flash3", "cluster.name=dgx-b200"), "is not known", "cudnn or flash2 or unfused would do"),
    (("model.positions=learned", "model.max_positions=64"), "learned positions for 64 tokens", ""),
]


def outcome(call: Callable[[], Any]) -> tuple[Any, str]:
    """What a call gives, or the message with which it refuses."""
    try:
        return call(), ""
    except SpecError as error:
        return None, str(error)


@pytest.mark.parametrize(("path", "value", "says"), REFUSED_VALUES)
def test_impossible_value_is_refused(
    path: str, value: str, says: str, make: Callable[..., Run], refusal: Callable[..., str]
) -> None:
    assert says in refusal(lambda: make(f"{path}={value}"))


@pytest.mark.parametrize(("overrides", "rule", "nearest"), REFUSED_LAYOUTS)
def test_layout_that_does_not_fit_is_refused(
    overrides: tuple[str, ...], rule: str, nearest: str, make: Callable[..., Run], refusal: Callable[..., str]
) -> None:
    message = refusal(lambda: make(*overrides), LayoutError)
    assert rule in message
    assert nearest in message


@pytest.mark.parametrize("missing", ["model", "cluster", "layout", "batch", "batch.sequence_length", "model.hidden"])
def test_missing_field_is_named(missing: str, small: dict[str, Any], refusal: Callable[..., str]) -> None:
    holder, _, field = missing.rpartition(".")
    del (small[holder] if holder else small)[field]
    message = refusal(lambda: run_from_document(small))
    assert missing in message or f"also need {field}" in message


def test_sizes_of_a_run(make: Callable[..., Run]) -> None:
    run = make()
    assert (run.ranks, run.microbatches, run.cluster.gpus) == (16, 8, 16)
    moe = make("model.moe={experts: 8, topk: 2, expert_ffn: 64}", "layout.ep=2")
    assert moe.expert_dp == 2  # dp 2 * tp 2 / ep 2
    assert make("layout.mesh.tp=8", "layout.mesh.pp=1", "model.kv_heads=2").ranks == 16  # kv heads duplicated


def test_elastic_cluster_grows_to_the_mesh(make: Callable[..., Run], refusal: Callable[..., str]) -> None:
    assert make("cluster=dgx-h100", "layout.mesh.pp=8").cluster.nodes == 4
    assert make("cluster=local-cpu", "layout.precision=fp32").cluster.nodes == 16
    assert make("cluster=dgx-h100", "layout.mesh={tp: 2}").cluster.nodes == 1  # part of a node
    assert "dp" in refusal(lambda: make("cluster=dgx-h100", "layout.mesh={tp: 2, pp: 5}"), LayoutError)


def test_network_overrides_replace_the_cluster_and_say_so(make: Callable[..., Run]) -> None:
    run = make("network={nic_gbps_per_gpu: 50, nics_per_node: 4, fabric: roce}")
    node = run.cluster.node
    assert (node.nics, node.nic_bytes_per_s_per_gpu, run.cluster.fabric.kind) == (4, 6.25e9, "roce")
    entry = evidence_of("nic_bytes_per_s", node.evidence)
    assert entry is not None
    assert entry.grade == "assumed"
    assert make("network={gpus_per_node: 4}", "cluster.nodes=4").cluster.node.nvlink_domain == 4
    rack = make("network={gpus_per_node: 4, nvlink_domain: 72}", "cluster.nodes=4").cluster.node
    assert (rack.gpus, rack.nvlink_domain) == (4, 72)


def test_attention_kernel_follows_the_gpu(make: Callable[..., Run]) -> None:
    kernels = {name: make(f"cluster.name={name}").software.attention for name in ("dgx-a100", "dgx-h100", "dgx-b200")}
    assert kernels == {"dgx-a100": "flash2", "dgx-h100": "cudnn", "dgx-b200": "cudnn"}
    assert make("software.attention=unfused").software.attention == "unfused"


def test_stored_types_follow_the_precision(make: Callable[..., Run]) -> None:
    assert make("layout.precision=fp16").software.params_dtype == "fp16"
    run = make("layout.precision=fp32")
    assert (run.software.params_dtype, run.software.master_weights) == ("fp32", None)
    assert make("layout.precision=fp16", "software.params_dtype=bf16").software.params_dtype == "bf16"


def test_framework_picks_its_habits_and_they_stay_assumed(make: Callable[..., Run]) -> None:
    run = make("software.framework=torchtitan", "software.ops=eager")
    assert (run.software.loss, run.software.params_dtype, run.software.vocab_pad_multiple) == ("torch", "fp32", None)
    assert "software.loss" in run.assumed
    assert "software.ops" not in run.assumed
    assert "software.framework" not in run.assumed
    assert Software(framework="torchtitan", loss="compiled").loss == "compiled"


@pytest.mark.parametrize("framework", PRESETS)
def test_preset_is_valid_and_null_means_not_stated(framework: str) -> None:
    assert set(PRESETS[framework]) <= set(Software.model_fields)
    bare = Software.model_validate({"framework": framework})
    nulls = dict.fromkeys(set(Software.model_fields) - {"framework", "master_weights", "vocab_pad_multiple"})
    assert Software.model_validate({"framework": framework, **nulls}) == bare
    assert bare.model_fields_set == {"framework"}


def test_other_names_of_losses() -> None:
    losses = [Software.model_validate({"loss": name}).loss for name in ("vocab_parallel", "loss_parallel", "te_fused")]
    assert losses == ["megatron", "torch", "te_fused"]


def test_assumed_names_what_was_not_said_and_matters(make: Callable[..., Run]) -> None:
    run = make()
    assert {"layout.recompute", "layout.schedule", "software.attention", "software.gradient_dtype"} <= set(run.assumed)
    assert not {"layout.ep", "software.moe_dispatcher", "layout.cp_comm", "layout.mesh"} & set(run.assumed)
    stated = make("layout.recompute=none", "software.attention=cudnn")
    assert not {"layout.recompute", "software.attention"} & set(stated.assumed)


def test_run_survives_copying(make: Callable[..., Run]) -> None:
    run = make("model.moe={experts: 8, topk: 2, expert_ffn: 64}", "layout.offload={activation_layers: 2}")
    assert Run.model_validate(json.loads(json.dumps(run.document(), allow_nan=False))) == run
    assert pickle.loads(pickle.dumps(run)) == run
    assert copy.deepcopy(run) == run
    assert hash(run) == hash(
        make("model.moe={experts: 8, topk: 2, expert_ffn: 64}", "layout.offload={activation_layers: 2}")
    )


@pytest.mark.parametrize("name", catalogue.names("runs"))
def test_bundled_run_reads_its_own_document_back(name: str) -> None:
    run = load_run(name)
    assert Run.model_validate(run.document()) == run


def test_a_changed_run_is_checked_again_and_keeps_what_it_assumes(make: Callable[..., Run]) -> None:
    run = make()
    other = run.changed(layout=run.layout.model_copy(update={"mesh": Mesh(tp=4, pp=4)}))
    assert (other.microbatches, other.software, other.cluster) == (16, run.software, run.cluster)
    assert other.assumed == run.assumed
    assert Run(model=run.model, cluster=run.cluster, layout=run.layout, batch=run.batch, name="run") == run
    with pytest.raises(LayoutError, match="ranks"):
        run.changed(layout=Layout())


def test_run_is_frozen(make: Callable[..., Run]) -> None:
    run = make()
    with pytest.raises(ValueError, match="frozen"):
        run.layout.zero = 2  # type: ignore[misc]
    flops = run.cluster.node.gpu.flops_per_s
    assert isinstance(flops, FrozenMap)
    with pytest.raises(TypeError, match="frozen"):
        flops["bf16"] = 1.0


def test_schema_describes_what_may_be_written() -> None:
    schema = Run.model_json_schema()
    json.dumps(schema)
    assert {"model", "cluster", "layout", "batch"} <= set(schema["required"])
    assert {"anyOf"} <= set(schema["$defs"]["GpuSpec"]["properties"]["memory_bytes"])
    assert {"type": "string"} in schema["properties"]["model"]["anyOf"]
    assert "enum" in schema["$defs"]["RecomputeSpec"]["anyOf"][0]


def test_the_405b_run_loads_fast_and_is_the_papers(tmp_path: Path) -> None:
    started = time.process_time()
    run = load_run("llama3-405b-16k")
    assert time.process_time() - started < 0.3
    assert (run.ranks, run.cluster.nodes, run.microbatches) == (16384, 2048, 16)
    layers = run.layers_of_parts(128)
    assert (layers[0], layers[-1], set(layers[1:-1])) == (0, 0, {1})


def test_paths_are_relative_to_the_run_file(tmp_path: Path, small: dict[str, Any], refusal: Callable[..., str]) -> None:
    folder = tmp_path / "here"
    (folder / "Tiny-GPT2").mkdir(parents=True)
    config = {"model_type": "gpt2", "n_embd": 64, "n_layer": 8, "n_head": 8, "n_positions": 128, "vocab_size": 100}
    (folder / "Tiny-GPT2" / "config.json").write_text(json.dumps(config))
    cluster = yaml.safe_load(catalogue.path_of("clusters", "dgx-h100").read_text())
    (folder / "mine.yaml").write_text(yaml.safe_dump({**cluster, "name": "mine", "nodes": 2}))
    for model in ("Tiny-GPT2/config.json", "./Tiny-GPT2", {"name": "Tiny-GPT2/config.json", "layers": 8}):
        small |= {"model": model, "cluster": "mine.yaml"}
        (folder / "run.yaml").write_text(yaml.safe_dump(small))
        run = load_run(folder / "run.yaml")
        assert (run.name, run.cluster.name, run.model.hidden, run.model.positions) == ("run", "mine", 64, "learned")
    assert run.model.name == "Tiny-GPT2"
    (folder / "run.yaml").write_text(yaml.safe_dump({**small, "model": "absent/config.json"}))
    assert "no such model file" in refusal(lambda: load_run(folder / "run.yaml"))


def test_changing_a_bundled_model_marks_its_evidence(make: Callable[..., Run]) -> None:
    run = make(
        "model={name: llama3-8b, layers: 16}", "model.max_positions=4096", "cluster.node.gpu.memory_bytes=40 GiB"
    )
    assert (run.model.layers, run.model.hidden) == (16, 4096)
    changed, kept = evidence_of("layers", run.model.evidence), evidence_of("hidden", run.model.evidence)
    assert changed is not None
    assert kept is not None
    assert (changed.grade, kept.grade) == ("assumed", "datasheet")
    gpu = run.cluster.node.gpu
    assert gpu.memory_bytes == 40 * 2**30
    assert gpu.evidence["memory_bytes"].source == "stated by the run"


@given(
    tp=st.integers(1, 16),
    cp=st.integers(1, 8),
    dp=st.integers(1, 16),
    pp=st.integers(1, 8),
    heads=st.integers(1, 32),
    sequence=st.integers(1, 512),
    batch=st.integers(1, 256),
    sequence_parallel=st.booleans(),
)
def test_a_run_that_is_accepted_divides_evenly(
    tp: int, cp: int, dp: int, pp: int, heads: int, sequence: int, batch: int, sequence_parallel: bool
) -> None:
    document = {
        "model": {"name": "m", "layers": 8, "hidden": 64, "heads": heads, "head_dim": 16, "ffn": 240, "vocab": 100},
        "cluster": "local-cpu",
        "layout": {"mesh": {"tp": tp, "cp": cp, "dp": dp, "pp": pp}, "sequence_parallel": sequence_parallel},
        "batch": {"sequence_length": sequence, "global_batch_size": batch},
    }
    run, refusal = outcome(lambda: run_from_document(document))
    assert "\n" not in refusal
    if run is None:
        assert "would do" in refusal
        return
    assert run.microbatches * dp == batch
    assert heads % tp == 0
    assert sequence % (cp * (tp if sequence_parallel else 1)) == 0
    assert run.cluster.gpus == run.ranks == tp * cp * dp * pp


def test_defaults_of_constructors() -> None:
    assert Layout().mesh == Mesh()
    assert Mesh(tp=2, pp=3).size == 6


def test_a_copy_with_plain_mappings_and_lists_is_hashable() -> None:
    gpu = load_run("llama3-70b-64").cluster.node.gpu
    slower = gpu.model_copy(update={"flops_per_s": {name: rate / 2 for name, rate in gpu.flops_per_s.items()}})
    assert hash(slower) != hash(gpu)
    assert hash(slower.model_copy(update={"flops_per_s": dict(gpu.flops_per_s)})) == hash(gpu)


def test_a_hash_is_of_the_value_and_of_one_process_alone() -> None:
    run = load_run("llama3-70b-64")
    other = run.layout.model_copy(update={"micro_batch_size": run.layout.micro_batch_size + 1})
    assert hash(run.layout) != hash(other)
    assert run.layout != other
    assert hash(other.model_copy(update={"micro_batch_size": run.layout.micro_batch_size})) == hash(run.layout)
    assert b"_known_hash" not in pickle.dumps(run.layout)
    gpu = run.cluster.node.gpu
    assert gpu.model_copy(update={"evidence": {}}) != gpu  # the hash may leave evidence out, the comparison may not


def test_runs_that_name_a_bundled_cluster_share_its_parts() -> None:
    clusters = [
        run_from_document(
            {
                "model": "llama3-8b",
                "cluster": "dgx-h100",
                "layout": {"mesh": {"dp": dp}},
                "batch": {"sequence_length": 2048, "global_batch_size": dp},
            }
        ).cluster
        for dp in (8, 16)
    ]
    assert [cluster.nodes for cluster in clusters] == [1, 2]
    assert clusters[0].node is clusters[1].node
