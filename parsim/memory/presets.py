"""Presets: what a framework's release does with memory, beyond the switches that a run states itself.

Where a framework changed, each release has a row with the month from which it holds; a release that is no month
(a commit, "r0.8.0") has the newest. Counted in the frameworks' sources, or measured where a note says so; a note also
says what is neither.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from parsim.spec import Software

__all__ = ["PRESETS", "Habits", "habits_of"]

MIB = 2**20


@dataclass(frozen=True)
class Habits:
    """How a framework allocates. Bytes per parameter are of the parameters (or their shard) that a rank holds.

    `gradients`: preallocated buffers; "step": they come into being in the backward and go after the optimizer step
    (zero_grad to None); "lazy": they come in the first backward and stay. `lazy_states`: optimizer states are made in
    the first step. Temporary in the optimizer step: `step_bytes` per parameter that the rank updates,
    `step_whole_bytes` per parameter that it holds, `step_tensor_bytes` per one of a layer (a loop over tensors).
    """

    held_gradient: Literal["reduced", "computed"] = "reduced"
    """In which type gradients lie between backward and step: the one they are reduced in, or that of the matmuls."""
    gradients: Literal["buffer", "step", "lazy"] = "buffer"
    lazy_states: bool = False
    step_bytes: float = 0.0
    step_whole_bytes: float = 0.0
    step_tensor_bytes: float = 0.0
    bucket_copies: float = 0.0
    """Copies of the gradients in the buckets of data parallelism (torch DDP), with more than one replica."""
    bucket_elements: float = 0.0
    """Elements of a bucket that gradients are reduced from (DeepSpeed), 16-bit."""
    live_elements: float | None = None
    """ZeRO-3: the most gathered parameters that may live at once; None: units as FSDP gathers them."""
    workspace_bytes: float = 0.0
    dummy_gradients: bool = False
    """Transformer Engine: one 16-bit dummy for each shape of weight whose gradient the matmul adds into a buffer."""
    quantised_copies: bool = False
    """Transformer Engine: fp8 copies of weights, and of the inputs that weight gradients need."""
    receives: Literal["pair", "every"] = "pair"
    """Receive buffers of a pipeline: one for each direction, or for every micro-batch."""
    keeps_output: bool = False
    """A stage's output lives until its backward, not only until it is sent."""
    splits_head: bool = True
    """The head's weight gradient waits for W as all others do, and keeps the gradient of the logits until then."""
    kernels: Literal["gpu", "cpu"] = "gpu"
    """Whose habits norms, masks and attention have (`ledger.kernels`)."""
    by_op: bool = False
    """FSDP's gathered weights and the head's gradient stand where an op needs them, as a count of storages has it;
    otherwise all along, at once with everything else, which is nearer to the reserved peaks that GPUs report."""


_ENGINE = Habits(workspace_bytes=64 * MIB, dummy_gradients=True, quantised_copies=True)  # measured on Megatron-core
_LOCAL = Habits(step_bytes=4)  # fp16 Megatron makes fp32 gradients for the step
_TITAN = Habits(receives="every", keeps_output=True, step_bytes=4)  # foreach AdamW, measured: 4.0
_PLAIN = Habits(gradients="step", lazy_states=True, bucket_copies=1.0, step_bytes=4)  # a bucketed DDP, measured
_EXECUTOR = Habits(kernels="cpu", by_op=True, receives="every", lazy_states=True, step_tensor_bytes=8)  # counted
_SHARDED = Habits(bucket_elements=5e8, step_bytes=6, live_elements=1e9)  # buckets and live parameters not verified

PRESETS: Mapping[str, tuple[tuple[str, Habits], ...]] = {
    "megatron-core": (("", _ENGINE),),
    "megascale": (("", _ENGINE),),
    "automodel": (("", _ENGINE),),
    "megatron-2021": (("", _LOCAL),),
    "megatron-2022": (("", _LOCAL),),
    "megatron-2023": (("", replace(_LOCAL, step_bytes=0)),),  # fp32 gradient buffers
    # Peaks under their automatic schedules are the same for 24 and for 64 micro-batches, of which the last rank keeps
    # more and more for W: no logits can be among that.
    "zero-bubble-megatron": (("", replace(_LOCAL, splits_head=False)),),
    "torchtitan": (
        ("", _TITAN),
        ("2025-03", replace(_TITAN, step_bytes=0)),  # a fused AdamW; from which month on is not verified
    ),
    # "Proactively deallocate tensors, including the input and output of each pipeline stage": 2407.21783, 3.3.2.
    # All but that is not verified: the stack is not public.
    "llama3-internal": (("", Habits()),),
    "llm-foundry-fsdp1": (("", Habits(step_tensor_bytes=12)),),  # DecoupledAdamW loops over tensors
    "internevo": (("", Habits(held_gradient="computed", step_bytes=12, step_whole_bytes=2)),),  # fitted
    "deepspeed": (("", _SHARDED),),
    "deepspeed-zero3-2021": (("", _SHARDED),),
    "pytorch": (("", _PLAIN),),
    "pytorch-cpu": (("", replace(_PLAIN, kernels="cpu", step_bytes=0, by_op=True)),),  # a fused AdamW
    "parsim-executor": (("", _EXECUTOR),),
}
"""Rows of (first month, habits) by framework, the oldest first."""

_MONTH = re.compile(r"20\d\d-\d\d")


def habits_of(software: Software) -> Habits:
    """The habits of a run's framework in the release that it states."""
    rows, stated = PRESETS[software.framework], _MONTH.match(software.preset_version or "")
    if stated is None:
        return rows[-1][1]
    return next((habits for since, habits in reversed(rows) if since <= stated[0]), rows[0][1])
