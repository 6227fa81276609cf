"""Buffers of the framework that live all through the step."""

from collections.abc import Iterable

from parsim.axes.axis import local_sizes
from parsim.axes.tp import TensorAxis
from parsim.memory.ledger.tokens import tokens_of
from parsim.memory.presets import habits_of
from parsim.memory.states import Held, bytes_per_parameter
from parsim.model.dims import Dim, length, model_sizes
from parsim.model.layer import LayerKind, Matmul, layer_work
from parsim.spec import Run

__all__ = ["framework_buffers", "linear_shapes"]


def framework_buffers(
    run: Run, held: Held, kinds: Iterable[LayerKind], receives: int, mtp: bool
) -> dict[tuple[str, str], float]:
    """Bytes by (category, name); the stages of the rank receive from `receives` neighbours and have layers of `kinds`.

    - GEMM workspaces, and the dummy gradients Transformer Engine returns when the matmul adds the weight gradient into
      the buffer: one 16-bit tensor for each distinct linear shape (out, in) on the rank.
    - Receive buffers of the pipeline for activations and gradients: one of each in Megatron; in PyTorch's pipelining
      one for every micro-batch and neighbour, so none for activations on the first stage.
    - Buckets of gradients: a copy of all of them in torch DDP, one of a fixed size in DeepSpeed.
    """
    habits, at, layout = habits_of(run.software), tokens_of(run), run.layout
    found = {("reserve", "matmul workspace"): habits.workspace_bytes}
    if habits.dummy_gradients and run.software.fused_weight_gradient:
        shapes = {shape for kind in set(kinds) for shape in linear_shapes(run, kind)}
        if mtp:
            shapes.add((run.model.hidden / at.tp, 2 * run.model.hidden))
        found["reserve", "dummy gradients"] = sum(2 * rows * columns for rows, columns in shapes)
    if layout.mesh.pp > 1:
        buffers = run.microbatches * receives if habits.receives == "every" else 2
        found["communication", "receive buffers"] = buffers * at.stream
    if layout.mesh.dp * layout.mesh.cp > 1:
        if layout.zero_stage == 0 and habits.bucket_copies:
            copies = habits.bucket_copies * bytes_per_parameter(run).gradients
            found["communication", "buckets"] = copies * held.whole
        if layout.zero_stage and habits.bucket_elements:
            found["communication", "buckets"] = layout.word_bytes * min(habits.bucket_elements, held.whole)
    return {name: size for name, size in found.items() if size}


def linear_shapes(run: Run, kind: LayerKind) -> list[tuple[float, float]]:
    """(out, in) of a layer's matmuls on one rank; QKV and gate with up are one each, of experts that of one."""
    layout, model = run.layout, run.model
    axes = (TensorAxis(layout.mesh.tp), TensorAxis(layout.expert_tp, experts=True))
    whole = model_sizes(model, layout.micro_batch_size, run.batch.sequence_length)
    sizes = local_sizes(whole, axes, {Dim.KV: model.head_dim})
    matmuls = [item for item in layer_work(model, kind) if isinstance(item, Matmul) and item.layer]
    return [(length(matmul.cols, sizes), length(matmul.inner, sizes)) for matmul in matmuls]
