"""DeepSpeed's JSON and accelerate's YAML as people have them."""

import json
from pathlib import Path

import pytest
import yaml

from parsim.errors import SpecError
from parsim.exchange import Elsewhere, Imported, export, import_run
from parsim.spec import load_run

DEEPSPEED = {
    "train_batch_size": 256,
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 2,
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "stage3_prefetch_bucket_size": 50_000_000,
        "overlap_comm": True,
    },
    "bf16": {"enabled": True},
    "fp16": {"enabled": False},
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}},
    "gradient_clipping": 1.0,
    "wall_clock_breakdown": False,
}
ACCELERATE = """
compute_environment: LOCAL_MACHINE
debug: false
distributed_type: FSDP
downcast_bf16: 'no'
fsdp_config:
  fsdp_activation_checkpointing: true
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_cpu_ram_efficient_loading: true
  fsdp_offload_params: false
  fsdp_reshard_after_forward: true
  fsdp_state_dict_type: SHARDED_STATE_DICT
  fsdp_version: 2
machine_rank: 0
main_training_function: main
mixed_precision: bf16
num_machines: 2
num_processes: 16
"""


def deepspeed(document: object, **elsewhere: object) -> Imported:
    text = document if isinstance(document, str) else json.dumps(document)
    return import_run("deepspeed", text, Path("ds.json"), Elsewhere(**elsewhere))  # type: ignore[arg-type]


def accelerate(text: str, **elsewhere: object) -> Imported:
    return import_run("accelerate", text, Path("a.yaml"), Elsewhere(**elsewhere))  # type: ignore[arg-type]


def test_a_deepspeed_file() -> None:
    imported = deepspeed(DEEPSPEED, model="llama3-70b", cluster="dgx-a100")
    run = imported.run
    assert (run.model.name, run.cluster.name, run.cluster.nodes) == ("llama3-70b", "dgx-a100", 4)
    assert (run.layout.mesh.dp, run.microbatches, run.layout.micro_batch_size) == (32, 2, 4)
    assert run.layout.zero == 3
    assert run.layout.offload is not None
    assert run.layout.offload.optimizer
    assert not run.layout.offload.weights
    assert run.layout.precision == "bf16"


def test_names_of_earlier_deepspeeds() -> None:
    zero = {"stage": 2, "cpu_offload": True}
    old = {"train_batch_size": 8, "bfloat16": {"enabled": True}, "zero_optimization": zero}
    imported = deepspeed({**old, "activation_checkpointing": {"cpu_checkpointing": True}})
    assert imported.run.layout.precision == "bf16"
    assert imported.run.layout.offload is not None
    assert imported.run.layout.offload.optimizer
    assert "activation_checkpointing.cpu_checkpointing" in {note.about for note in imported.notes}


def test_what_a_deepspeed_file_does_not_say_is_assumed_and_said() -> None:
    notes = {note.about for note in deepspeed(DEEPSPEED).notes}
    assert {"model", "cluster", "batch.sequence_length"} <= notes
    auto = {**DEEPSPEED, "train_batch_size": "auto", "gradient_accumulation_steps": "auto"}
    imported = deepspeed(auto, gpus=8)
    assert imported.run.layout.mesh.dp == 8
    assert imported.run.batch.global_batch_size == 32
    assert "train_batch_size" in {note.about for note in imported.notes}


def test_deepspeeds_notes_stand_under_a_name_of_their_own() -> None:
    exported = export(load_run("llama3-70b-64"), "deepspeed")
    document = json.loads(str(exported.main))
    assert all(f"  {note}" in document["parsim"] for note in exported.notes)
    assert document["train_batch_size"] == 512


def test_an_accelerate_file() -> None:
    run = accelerate(ACCELERATE, model="llama3-8b").run
    assert (run.layout.mesh.dp, run.layout.zero, run.layout.fsdp) == (16, 3, True)
    assert run.layout.recompute.mode == "full"
    assert run.cluster.nodes == 2
    assert run.layout.reshard_after_forward


@pytest.mark.parametrize(
    ("word", "stage", "reshards"),
    [("FULL_SHARD", 3, True), ("SHARD_GRAD_OP", 3, False), ("NO_SHARD", 0, True), ("1", 3, True), ("2", 3, False)],
)
def test_words_of_fsdp_1(word: str, stage: int, reshards: bool) -> None:
    text = ACCELERATE.replace("fsdp_reshard_after_forward: true", f"fsdp_sharding_strategy: {word}")
    run = accelerate(text.replace("fsdp_version: 2", "fsdp_version: 1")).run
    assert run.layout.zero == stage
    assert run.layout.reshard_after_forward is reshards


def test_accelerates_notes_are_comments() -> None:
    exported = export(load_run("llama3-70b-64"), "accelerate")
    text = str(exported.main)
    assert all(f"#   {note}" in text for note in exported.notes)
    assert yaml.safe_load(text)["num_processes"] == 128
    assert "layout.mesh.pp" in {note.about for note in exported.notes}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("", "not JSON"),
        ("[]", "a mapping of settings is needed"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ({**DEEPSPEED, "train_batch_size": 250}, "must be a multiple of train_micro_batch_size_per_gpu 4"),
        ({**DEEPSPEED, "train_batch_size": "256"}, "whole number from 1 on"),
        ({**DEEPSPEED, "train_batch_size": 0}, "whole number from 1 on"),
        ({**DEEPSPEED, "fp16": {"enabled": True}}, "only one of them"),
        ({**DEEPSPEED, "bfloat16": {"enabled": False}}, "the old name contradicts"),
        ({**DEEPSPEED, "zero_optimization": {"stage": 4}}, "0 to 3"),
        ({**DEEPSPEED, "zero_optimization": {"stag": 3}}, "did you mean zero_optimization.stage"),
        ({**DEEPSPEED, "zero_optimization": {"stage": 3, "offload_param": {"device": "tpu"}}}, "none, cpu or nvme"),
        ({**DEEPSPEED, "optimizer": {"type": "Zog"}}, "optimizer.type Zog"),
    ],
)
def test_one_clear_line_for_deepspeed(document: object, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        deepspeed(document)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (ACCELERATE, "", "a mapping of settings is needed"),
        (ACCELERATE, "a: [", "not YAML"),
        ("distributed_type: FSDP", "distributed_type: XLA", "parsim reads FSDP"),
        ("num_processes: 16", "num_processes: sixteen", "whole number"),
        ("num_processes: 16", "num_proceses: 16", "did you mean num_processes"),
        ("mixed_precision: bf16", "mixed_precision: int4", "one of no, fp16, bf16, fp8"),
        ("fsdp_reshard_after_forward: true", "fsdp_reshard_after_forward: SOME", "one of FULL_SHARD"),
        (
            "num_processes: 16",
            "num_processes: 15\nparallelism_config: {parallelism_config_tp_size: 2}",
            "must be a multiple of tp 2",
        ),
    ],
)
def test_one_clear_line_for_accelerate(old: str, new: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        accelerate(ACCELERATE.replace(old, new))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
