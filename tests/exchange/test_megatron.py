"""Megatron-LM scripts as people write them: what is read, what is said, what is refused in one line."""

from pathlib import Path

import pytest

from parsim.errors import SpecError
from parsim.exchange import Elsewhere, Imported, export, import_run
from parsim.exchange.megatron import MEGATRON
from parsim.spec import load_run

MODEL = "--num-layers 24 --hidden-size 1024 --num-attention-heads 16 --vocab-size 50257 --max-position-embeddings 2048"
BATCH = "--seq-length 2048 --micro-batch-size 2 --global-batch-size 64 --bf16"
PLAIN = f"torchrun --nproc-per-node 8 pretrain_gpt.py {MODEL} {BATCH}"

SCRIPT = r"""#!/bin/bash
#SBATCH --nodes=4
export CUDA_DEVICE_MAX_CONNECTIONS=1
GPUS_PER_NODE=8
NNODES=${SLURM_NNODES:-"4"}
WORLD_SIZE=$(($GPUS_PER_NODE*$NNODES))
: ${TP:=4}
PP=2   # a comment with a ' in it
DISTRIBUTED_ARGS=(
    --nproc_per_node $GPUS_PER_NODE  # of a node
    --nnodes $NNODES
    --master_addr ${MASTER_ADDR:-localhost}
)
GPT_ARGS="--num-layers 32 \
  --hidden-size 4096 --ffn-hidden-size 14336"
GPT_ARGS="$GPT_ARGS --num-attention-heads 32 --group-query-attention --num-query-groups 8"
GPT_ARGS+=" --swiglu --normalization RMSNorm --disable-bias-linear --position-embedding-type rope"
NOTHING=()
MORE=(); MORE+=( --untie-embeddings-and-output-weights '--attention-dropout' 0 --hidden-dropout "0.0" )
if [ "$USE_SP" = 1 ]; then
    GPT_ARGS="$GPT_ARGS --sequence-parallel"
fi
[ -z "$DEBUG" ] || GPT_ARGS+=" --fp16"
cat <<EOF > ds.json
{ "an": 'unclosed quote }
EOF
torchrun ${DISTRIBUTED_ARGS[@]} pretrain_gpt.py \
   $GPT_ARGS ${NOTHING[@]} "${NOTHING[@]}" "${MORE[@]}" \
   --tensor-model-parallel-size=$TP --pipeline-model-parallel-size ${PP} \
   --num-layers-per-virtual-pipeline-stage 4 --vocab-size 128256 --max-position-embeddings 8192 \
   --seq-length 8192 --micro-batch-size 1 --global-batch-size $((8 * 16)) --bf16 \
   --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather \
   --data-path "$1" --tokenizer-model "my models/tokenizer.model" --lr 1e-4 --some-fork-flag 3 "$@" 2>&1 | tee log.txt
"""


def read(text: str, **elsewhere: object) -> Imported:
    return import_run("megatron", text, Path("train.sh"), Elsewhere(**elsewhere))  # type: ignore[arg-type]


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        read(text)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 400
    return line


def test_a_script_with_everything_that_shells_have() -> None:
    imported = read(SCRIPT)
    run = imported.run
    assert (run.model.name, run.model.layers, run.model.kv_heads) == ("llama3-8b", 32, 8)
    mesh = run.layout.mesh
    assert (mesh.tp, mesh.cp, mesh.dp, mesh.pp) == (4, 1, 4, 2)
    assert (run.layout.schedule, run.layout.stages_per_rank) == ("interleaved", 4)
    assert run.batch.global_batch_size == 128
    assert run.layout.zero == 1
    assert not run.layout.sequence_parallel
    notes = "\n".join(map(str, imported.notes))
    assert "line 20: what stands under if is not evaluated" in notes
    assert "--some-fork-flag 3" in notes
    assert "--lr" not in notes
    assert imported.document["cluster"]["nodes"] == 4


def test_flags_alone_are_a_command_line() -> None:
    run = read(f"{MODEL}\n{BATCH}".replace("\n", " \\\n"), gpus=16).run
    assert run.layout.mesh.dp == 16
    assert run.model.ffn == 4096
    assert run.software.attention_dropout == 0.1
    assert run.model.positions == "learned"


@pytest.mark.parametrize(
    ("old", "field", "value"),
    [
        ("--model-parallel-size 2", "layout.mesh.tp", 2),
        ("--checkpoint-activations", "layout.recompute.mode", "full"),
        ("--activations-checkpoint-method uniform", "layout.recompute.mode", "full"),
        ("--recompute-activations", "layout.recompute.mode", "selective"),
        ("--moe-layer-recompute --num-experts 8", "layout.recompute.modules", ("moe",)),
        ("--use-flash-attn", "software.attention", "flash2"),
        ("--use-rotary-position-embeddings", "model.positions", "rope"),
        ("--use-custom-fsdp --data-parallel-sharding-strategy optim_grads_params", "layout.fsdp", True),
        ("--fp8-hybrid", "layout.precision", "fp8-delayed-scaling"),
        ("--external-cuda-graph", "software.cuda_graphs", "full"),
        ("--encoder-tensor-model-parallel-size 0 --delay-param-gather", "layout.mesh.tp", 1),
        ("--num-query-groups 16", "model.kv_heads", 16),
    ],
)
def test_names_of_earlier_releases(old: str, field: str, value: object) -> None:
    found: object = read(f"{PLAIN} {old}").run
    for name in field.split("."):
        found = getattr(found, name)
    assert found == value


def test_flags_that_are_like_known_ones_and_none_of_them() -> None:
    imported = read(
        f"{PLAIN} --tp-comm-overlap --tp-comm-overlap-cfg tp.yaml --no-position-embedding --use-flash-attn-v2"
    )
    assert imported.run.software.tp_overlap == "te_userbuffers"
    noted = {note.about for note in imported.notes}
    assert {"--tp-comm-overlap-cfg tp.yaml", "--no-position-embedding", "--use-flash-attn-v2"} <= noted


def test_the_last_of_a_flag_that_is_stated_twice_counts() -> None:
    assert read(f"{PLAIN} --micro-batch-size 4").run.layout.micro_batch_size == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no command with Megatron-LM flags"),
        ("echo hello", "no command with Megatron-LM flags"),
        ("\0\x01\x02", "no command"),
        (f"for TP in 1 2; do\n{PLAIN}\ndone", "line 1: what stands under for is not evaluated"),
        (f"{PLAIN} \\ # comment\n  --swiglu", "the backslash must end its line"),
        (f"{PLAIN} --tensor-model-paralel-size 8", "did you mean --tensor-model-parallel-size"),
        (f"{PLAIN} --tensor-model-parallel-size", "it takes one value, here are 0"),
        (f"{PLAIN} --tensor-model-parallel-size 2 4", "it takes one value, here are 2"),
        (f"{PLAIN} --tensor-model-parallel-size two", "a whole number is needed"),
        (f"{PLAIN} --tensor-model-parallel-size 1.5", "a whole number is needed"),
        (f"{PLAIN} --tensor-model-parallel-size -2", "from 1 on"),
        (f"{PLAIN} --tensor-model-parallel-size {10**30}", "sensible size"),
        (f"{PLAIN} --tensor-model-parallel-size $TP", "the script does not tell its value"),
        (f"{PLAIN} --tensor-model-parallel-size $(nproc)", "the script does not tell its value"),
        (f"{PLAIN} --tensor-model-parallel-size 3", "multiple of tp 3"),
        (f"{PLAIN} --tensor-model-parallel-size 2 --model-parallel-size 4", "contradicts"),
        (f"{PLAIN} --swiglu true", "it takes no value"),
        (f"{PLAIN} --swiglu 'one\ntwo'", "--swiglu one two: it takes no value"),
        (f"{PLAIN} --optimizer 'a\nb'", "--optimizer a b: adam"),
        (f"{PLAIN} --fp16", "--fp16 and --bf16"),
        (f"{PLAIN} --num-query-groups 4", "needs --group-query-attention"),
        (f"{PLAIN} --num-virtual-stages-per-pipeline-rank 2", "needs --pipeline-model-parallel-size"),
        (f"{PLAIN} --pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 5", "do not divide"),
        (
            f"{PLAIN} --pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 4 "
            "--num-virtual-stages-per-pipeline-rank 3",
            "only one of them",
        ),
        (f"{PLAIN} --pipeline-model-parallel-size 2 --pipeline-model-parallel-layout 'Et*12|t*12'", "loss L"),
        (f"{PLAIN} --pipeline-model-parallel-size 2 --pipeline-model-parallel-layout 'Et|t*22|tL'", "3 stages"),
        (
            f"{PLAIN} --pipeline-model-parallel-size 2 --pipeline-model-parallel-layout 'Et*12|t*12L' "
            "--account-for-loss-in-pipeline-split",
            "contradicts it",
        ),
        (f"{PLAIN} --overlap-param-gather", "needs --overlap-grad-reduce"),
        (f"{PLAIN} --recompute-method block", "needs --recompute-granularity full"),
        (f"{PLAIN} --num-experts 8 --moe-layer-freq __import__('os')", "--moe-layer-freq"),
        (f"{PLAIN} --num-experts 8 --moe-layer-freq '([0]*99999999999+[1])'", "--moe-layer-freq"),
        (f"{PLAIN} --num-experts 8 --moe-layer-freq '([1]*12+[0]*12)'", "dense layers first"),
        (f"{PLAIN} --expert-model-parallel-size 4", "needs --num-experts"),
        (f"{PLAIN} --global-batch-size 65", "global_batch_size 65"),
        (f"{PLAIN} --q-lora-rank 512", "needs --multi-latent-attention"),
        (PLAIN.replace("--vocab-size 50257", "--num-layers 7"), "vocabulary"),
        (PLAIN.replace("--num-layers 24", ""), "model.layers"),
        (f"ARGS=( {MODEL}\ntorchrun pretrain_gpt.py", "never closed"),
        (f"{PLAIN} --data-path 'x", "never closed"),
        (f"{PLAIN} --data-path ${{X", "never closed"),
    ],
)
def test_one_clear_line(text: str, says: str) -> None:
    assert says in refusal(text)


def test_a_number_of_nodes_that_the_script_does_not_tell() -> None:
    text = f"torchrun --nnodes $SLURM_NNODES --nproc-per-node 8 pretrain_gpt.py {MODEL} {BATCH}"
    alone, named = read(text), read(text, gpus=32)
    assert {"--nnodes", "layout.mesh.dp"} <= {note.about for note in alone.notes}
    assert (alone.run.layout.mesh.dp, named.run.layout.mesh.dp) == (1, 32)
    assert read(f"#SBATCH --nodes=4\n{text}").run.layout.mesh.dp == 32


def test_a_number_of_gpus_that_contradicts_the_launcher() -> None:
    with pytest.raises(SpecError, match=r"16 GPUs were named"):
        read(f"WORLD_SIZE=8\npython pretrain_gpt.py {MODEL} {BATCH}", gpus=16)


@pytest.mark.parametrize(
    ("first", "last", "virtual", "counts"),
    [(4, None, 1, (4, 10, 10)), (4, 8, 1, (4, 12, 8)), (4, 8, 2, (2, 6, 4, 2, 6, 4))],
)
def test_numbers_of_layers_at_the_ends(first: int, last: int | None, virtual: int, counts: tuple[int, ...]) -> None:
    flags = f"--pipeline-model-parallel-size 3 --decoder-first-pipeline-num-layers {first}"
    flags += f" --decoder-last-pipeline-num-layers {last}" if last else ""
    flags += f" --num-virtual-stages-per-pipeline-rank {virtual}" if virtual > 1 else ""
    text = f"torchrun --nproc-per-node 6 pretrain_gpt.py {MODEL} {BATCH} {flags} --global-batch-size 12"
    run = read(text).run
    assert run.layers_of_parts(3 * virtual) == counts


def test_a_layout_string_is_kept_as_it_is_written() -> None:
    text = "Et*5|(t*6|)*2t*7L"
    run = read(f"{PLAIN} --pipeline-model-parallel-size 4 --pipeline-model-parallel-layout '{text}'").run
    assert run.layout.split == text
    assert f"'{text}'" in str(export(run, "megatron").main)


def test_mtp_layers_of_their_own_stage_go_to_the_loss() -> None:
    """Megatron's own example for DeepSeek-V3 is Et*3|(tt|)*29m|L."""
    flags = "--num-layers 5 --mtp-num-layers 1 --pipeline-model-parallel-size 4"
    imported = read(f"{PLAIN} {flags} --pipeline-model-parallel-layout 'Et*3|(tt|)*1m|L' --global-batch-size 8")
    assert imported.run.layers_of_parts(4) == (3, 2, 0, 0)
    assert imported.run.layout.split == "Et*3|(tt|)*1|mL"
    assert "layout.split" in {note.about for note in imported.notes}


def test_norms_of_latents_are_not_norms_of_heads() -> None:
    flags = "--multi-latent-attention --kv-lora-rank 512 --qk-layernorm"
    assert read(f"{PLAIN} {flags}").run.model.qk_norm == "none"
    assert "model.mla" not in {note.about for note in read(f"{PLAIN} {flags}").notes}
    assert "model.mla" in {note.about for note in read(f"{PLAIN} --multi-latent-attention").notes}
    run = load_run("llama3-70b-64", ["model=deepseek-v3", "layout.split=balanced"])
    assert "--qk-layernorm" in str(export(run, "megatron").main)


def test_notes_stand_in_the_script_and_what_it_says_is_said_once() -> None:
    run = load_run("llama3-70b-64", ["layout.schedule=zb-h1", "layout.stages_per_rank=1"])
    exported = export(run, "megatron")
    script = str(exported.main)
    assert any(note.about == "layout.schedule" and "zb-h1" in note.text for note in exported.notes)
    for note in exported.notes:
        assert f"#   {note}" in script
    flags = [
        word for line in script.splitlines() if not line.startswith("#") for word in line.split() if word[:2] == "--"
    ]
    assert len(flags) == len(set(flags))
    assert set(flags) <= set(MEGATRON.settings)
    assert MEGATRON.release in script


def test_scripts_that_evaluate_themselves_end() -> None:
    assert "without end" in refusal("A='eval $A'\neval $A")


def test_a_run_beside_it_fills_in_what_a_script_leaves_open_and_no_more() -> None:
    like = {
        "model": "llama3-70b",
        "cluster": {"name": "dgx-a100", "nodes": 64},
        "layout": {
            "mesh": {"tp": 8, "pp": 4},
            "schedule": "interleaved",
            "stages_per_rank": 5,
            "zero": 3,
            "fsdp": True,
        },
        "software": {"fused_moe_activation": False, "throttled": False},
    }
    imported = read(f"{PLAIN} --pipeline-model-parallel-size 2".replace("--vocab-size 50257", ""), like=like)
    run = imported.run
    assert (run.layout.schedule, run.layout.zero, run.layout.mesh.tp) == ("1f1b", 0, 1)
    assert (run.model.layers, run.model.vocab, run.model.head_dim) == (24, 128256, 64)
    assert (run.cluster.name, run.cluster.nodes) == ("dgx-a100", 1)
    assert not run.software.throttled


def test_nothing_of_a_runs_name_is_run_by_the_shell() -> None:
    run = load_run("llama3-70b-64").model_copy(update={"name": "x\nrm -rf $HOME"})
    script = str(export(run, "megatron").main)
    assert not any(line.startswith("rm") for line in script.splitlines())
