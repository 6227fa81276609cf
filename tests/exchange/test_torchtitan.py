"""torchtitan's recipes and older TOML files as people have them; the schedule beside a recipe."""

from pathlib import Path

import pytest

from parsim.errors import SpecError
from parsim.exchange import Elsewhere, Imported, export, import_run
from parsim.plan import parse_csv
from parsim.schedules import build
from parsim.spec import load_run

RECIPE = """
from torchtitan.config import ParallelismConfig, TrainingConfig
from torchtitan.distributed.activation_checkpoint import FullAC
from torchtitan.models.llama3 import model_registry
from torchtitan.trainer import Trainer


def small():
    model_spec = model_registry("8B", converters=[Float8LinearConverter.Config(recipe_name="rowwise")])
    return Trainer.Config(
        model_spec=model_spec,
        optimizer=default_adamw(lr=8e-4),
        training=TrainingConfig(local_batch_size=2, seq_len=8192, steps=10),
        parallelism=ParallelismConfig(data_parallel_shard_degree=8, tensor_parallel_degree=2),
        activation_checkpoint=FullAC.Config(),
    )


def large():
    config = small()
    config.model_spec = model_registry("70B")
    config.parallelism.pipeline_parallel_degree = 4
    config.parallelism.pipeline_parallel_schedule = "Interleaved1F1B"
    config.training.local_batch_size = 8
    return config
"""

TOML = """
[model]
name = "llama3"
flavor = "8B"
converters = ["float8"]

[training]
batch_size = 2
seq_len = 8192
steps = 10
data_parallel_shard_degree = -1
tensor_parallel_degree = 2
compile = true

[experimental]
context_parallel_degree = 2
pipeline_parallel_degree = 1
enable_async_tensor_parallel = true

[float8]
enable_fsdp_float8_all_gather = true

[activation_checkpoint]
mode = "selective"  # ['none', 'selective', 'full']
selective_ac_option = 'op'
"""


def read(text: str, path: str = "recipe.py", **elsewhere: object) -> Imported:
    return import_run("torchtitan", text, Path(path), Elsewhere(**elsewhere))  # type: ignore[arg-type]


def test_a_recipe_that_starts_from_another() -> None:
    imported = read(RECIPE)
    run = imported.run
    assert run.model.name == "llama3-70b"
    assert (run.layout.mesh.tp, run.layout.mesh.dp, run.layout.mesh.pp) == (2, 8, 4)
    assert (run.layout.schedule, run.layout.stages_per_rank) == ("interleaved", 2)
    assert run.layers_of_parts(8) == (10, 11, 10, 10, 10, 10, 10, 9)
    assert run.microbatches == 8
    assert (run.layout.zero_stage, run.layout.reshard_after_forward) == (3, False)
    assert run.layout.recompute.mode == "full"
    assert run.software.framework == "torchtitan"
    assert any("the last of 2, large, is read" in str(note) for note in imported.notes)
    assert read(RECIPE, recipe="small").run.model.name == "llama3-8b"
    assert not any(note.about == "recipe" for note in read(RECIPE, recipe="small").notes)
    for text, name, says in ((RECIPE, "smal", "did you mean 'small'"), (TOML, "small", "a TOML file has none")):
        with pytest.raises(SpecError, match=says):
            read(text, recipe=name)


def test_a_toml_file_of_earlier_releases() -> None:
    imported = read(TOML, "llama3_8b.toml", gpus=64)
    run = imported.run
    assert run.model.name == "llama3-8b"
    mesh = run.layout.mesh
    assert (mesh.tp, mesh.cp, mesh.dp, mesh.pp) == (2, 2, 16, 1)
    assert run.layout.precision == "fp8-tensorwise"
    assert run.layout.recompute.modules == ("every_second_matmul",)
    assert (run.software.ops, run.software.tp_overlap) == ("compiled", "async_tp")
    assert run.batch.global_batch_size == 32
    assert run.layout.cp_comm == "allgather"
    assert run.layout.reshard_after_forward
    assert run.layout.sequence_parallel


def test_layers_are_those_of_the_model_that_the_file_names() -> None:
    pipeline = "pipeline_parallel_degree = 2\npipeline_parallel_schedule = 'Interleaved1F1B'"
    text = TOML.replace("pipeline_parallel_degree = 1", pipeline)
    alone, named = read(text, "t.toml", gpus=64), read(text, "t.toml", gpus=64, model="llama3-70b")
    assert alone.run == named.run
    assert sum(alone.run.layers_of_parts(4)) == 32


def test_names_of_the_first_releases() -> None:
    text = TOML.replace('converters = ["float8"]\n', "").replace("batch_size = 2", "batch_size = 8")
    text = text.replace(
        "pipeline_parallel_degree = 1", "pipeline_parallel_degree = 2\npipeline_parallel_microbatches = 4"
    )
    text = text.replace(
        "[float8]", 'pipeline_parallel_split_points = "layers.12"\n\n[float8]\nenable_float8_linear = true'
    )
    run = read(text, "a.toml", gpus=16).run
    assert (run.layout.micro_batch_size, run.microbatches) == (2, 4)
    assert run.layers_of_parts(2) == (12, 20)
    assert run.layout.precision == "fp8-tensorwise"


@pytest.mark.parametrize(("option", "layers"), [("", 16), ("= '2'", 16), ("= 4", 8), ("= '1'", None)])
def test_every_nth_layer_is_recomputed(option: str, layers: int | None) -> None:
    """What the files before 0.3 take where they do not say it is every second layer."""
    text = TOML.replace("selective_ac_option = 'op'", f"selective_ac_option {option}" if option else "")
    recompute = read(text, "a.toml").run.layout.recompute
    assert (recompute.mode, recompute.layers) == ("full", layers)


def test_degrees_of_experts_in_earlier_releases() -> None:
    text = TOML.replace("llama3", "deepseek_v3").replace('"8B"', '"671B"')
    degrees = "expert_parallel_degree = 16\nexpert_tensor_parallel_degree = 1\nexpert_parallel_comm_backend = 'deepep'"
    run = read(f"{text}\n[parallelism]\n{degrees}\n", "a.toml", gpus=64).run
    assert (run.layout.ep, run.layout.expert_tp, run.software.moe_dispatcher) == (16, 1, "deepep")


def test_what_is_left_of_the_gpus_is_said_where_nobody_tells() -> None:
    assert any("nothing tells how many" in str(note) for note in read(TOML, "a.toml").notes)


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1", "interleaved", "interleaved-zb", "zb-v", "dualpipe-v", "gpipe"])
def test_the_plan_stands_beside_the_recipe_and_is_recognised(schedule: str, tmp_path: Path) -> None:
    overrides = [f"layout.schedule={schedule}", "layout.stages_per_rank=null", "layout.split=balanced"]
    run = load_run("llama3-70b-64", overrides)
    exported = export(run, "torchtitan", "mine")
    text = str(exported.beside["mine.csv"])
    plan = parse_csv(text)
    assert plan.orders == build(schedule, 4, run.microbatches).orders
    assert "pipeline_parallel_schedule_csv='mine.csv'" in str(exported.main)
    compile(str(exported.main), "recipe.py", "exec")
    (tmp_path / "mine.csv").write_text(text)
    imported = import_run("torchtitan", str(exported.main), tmp_path / "recipe.py", None)
    assert imported.run.layout.schedule == schedule
    (tmp_path / "mine.csv").write_text("0F0,0B0\n1F0,1B0\n")
    notes = import_run("torchtitan", str(exported.main), tmp_path / "recipe.py", None).notes
    assert any("a plan of its own" in str(note) for note in notes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no function in it returns a Trainer.Config"),
        ("x = 1", "no function in it returns a Trainer.Config"),
        ("def f(:\n", "not Python"),
        ("\0", "not Python"),
        ("[" * 10_000, "not"),
        ("[model]\nname = 'llama3'\nname = 'x'\n", "not TOML"),
        (TOML.replace("tensor_parallel_degree = 2", "tensor_parallel_degree = 0"), "at least 1"),
        (TOML.replace("tensor_parallel_degree = 2", "tensor_parallel_degree = 2.5"), "whole number is needed"),
        (TOML.replace("tensor_parallel_degree = 2", "tensor_parallel_degree = '2'"), "whole number is needed"),
        (TOML + "[parallelism]\ntensor_paralel_degree = 4\n", "did you mean parallelism.tensor_parallel_degree"),
        (TOML + "[parallelism]\ntensor_parallel_degree = 4\n", "contradicts"),
        (TOML.replace('"selective"', '"some"'), "none, full, selective"),
        (TOML.replace("'op'", "'ops'"), "op, or a whole number"),
        (TOML + "[parallelism]\nexpert_tensor_parallel_degree = 3\n", "1, or tensor_parallel_degree 2"),
        (
            TOML.replace("pipeline_parallel_degree = 1", "pipeline_parallel_degree = 2")
            + "[parallelism]\npipeline_parallel_split_points = ['layers.40']\n",
            "names of layers of 32",
        ),
        (RECIPE.replace('"Interleaved1F1B"', '"Interleaved2F2B"'), "one of 1F1B"),
        (RECIPE.replace("local_batch_size = 8", "local_batch_size = 0"), "must be a multiple"),
        (RECIPE + "    config.parallelism.pipeline_parallel_layers_per_stage = 3\n", "returns"),
        ("def a():\n    return b()\n\n\ndef b():\n    return a()\n", "circle"),
    ],
)
def test_one_clear_line(text: str, says: str) -> None:
    if says == "returns":  # behind the return nothing is read
        assert read(text).run.layout.stages_per_rank == 2
        return
    with pytest.raises(SpecError) as caught:
        read(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
