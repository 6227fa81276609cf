"""Software: whose habits a run has. Every field has a default, which a run reports as assumed unless it states it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from parsim.spec.base import Count, Flag, Name, Spec
from parsim.spec.quantity import Bytes
from parsim.spec.router_skew import RouterSkew

__all__ = ["PRESETS", "Attention", "Software"]

Framework = Literal[
    "megatron-core",
    "megatron-2021",
    "megatron-2022",
    "megatron-2023",
    "zero-bubble-megatron",
    "megascale",
    "torchtitan",
    "llm-foundry-fsdp1",
    "internevo",
    "automodel",
    "deepspeed",
    "deepspeed-zero3-2021",
    "llama3-internal",
    "pytorch",
    "pytorch-cpu",
    "parsim-executor",
]
Attention = Literal["unfused", "flash2", "flash3", "cudnn", "unfused_sinks"]
_LOSSES = {"vocab_parallel": "megatron", "loss_parallel": "torch"}  # other names of the same
Loss = Annotated[
    Literal["megatron", "te_fused", "torch", "compiled"],
    BeforeValidator(lambda name: _LOSSES.get(name, name) if isinstance(name, str) else name),
]
_STORED_BYTES = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}
_MAY_BE_NONE = ("master_weights", "vocab_pad_multiple")  # for other fields null is "not stated"
Stored = Literal["fp64", "fp32", "bf16", "fp16"]
BucketBytes = Annotated[Bytes, Field(ge=2**16)]
Probability = Annotated[float, Field(strict=True, ge=0, lt=1, allow_inf_nan=False)]

_FP16_MEGATRON = {
    "params_dtype": "fp16",
    "gradient_dtype": "fp16",
    "attention": "unfused",
    "attention_dropout": 0.1,
    "hidden_dropout": 0.1,
    "dp_overlap": False,
}
_PYTORCH = {"loss": "torch", "vocab_pad_multiple": None, "fused_weight_gradient": False, "fsdp_unit": "layer"}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "megatron-core": {},
    "megatron-2021": {**_FP16_MEGATRON, "fused_weight_gradient": False},
    "megatron-2022": {**_FP16_MEGATRON, "fused_weight_gradient": False},
    "megatron-2023": {"dp_overlap": False},
    "zero-bubble-megatron": _FP16_MEGATRON,
    "megascale": {},
    "torchtitan": {**_PYTORCH, "params_dtype": "fp32", "master_weights": None, "ops": "compiled"},
    "llm-foundry-fsdp1": {**_PYTORCH, "params_dtype": "fp32", "master_weights": None, "ops": "eager"},
    "internevo": {**_PYTORCH, "gradient_dtype": "bf16"},
    "automodel": _PYTORCH,
    "deepspeed": {**_PYTORCH, "gradient_dtype": "bf16"},
    "deepspeed-zero3-2021": {**_FP16_MEGATRON, **_PYTORCH, "fsdp_unit": "tensor"},
    "llama3-internal": {**_PYTORCH},
    "pytorch": {**_PYTORCH, "params_dtype": "fp32", "master_weights": None, "ops": "eager"},
    "pytorch-cpu": {**_PYTORCH, "params_dtype": "fp32", "master_weights": None, "ops": "eager"},
    "parsim-executor": {**_PYTORCH, "params_dtype": "fp32", "master_weights": None, "ops": "eager"},
}
"""Habits of a framework where they differ from the defaults of `Software`."""


def _graphs(value: Any) -> str | tuple[str, ...]:
    parts = ("attn", "mlp", "moe", "moe_router", "moe_preprocess", "mamba")
    if isinstance(value, str) and value in ("none", "full", "full_iteration"):
        return value
    if isinstance(value, list | tuple) and value and all(part in parts for part in value):
        return tuple(value)
    raise ValueError(f"write none, full, full_iteration, or a list of the captured parts ({', '.join(parts)})")


CudaGraphs = Annotated[
    str | tuple[str, ...],
    PlainValidator(_graphs),
    PlainSerializer(lambda graphs: graphs),  # else pydantic serialises a tuple twice, and warns of its own list
    WithJsonSchema(
        {"anyOf": [{"enum": ["none", "full", "full_iteration"]}, {"type": "array", "items": {"type": "string"}}]}
    ),
]


def _routed(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was said, and the routing that a capacity or a skew implies."""
    if "routing" in data:
        return data
    implied = {"capacity_factor": "token_drop", "router_skew": "learned", "balance_loss": "learned"}
    found = next((routing for field, routing in implied.items() if data.get(field)), None)
    return data if found is None else {**data, "routing": found}


class Software(Spec):
    """The framework and its switches. Defaults are Megatron-core's in bf16; `framework` picks others (PRESETS)."""

    framework: Framework = "megatron-core"
    preset_version: Name | None = None
    attention: Attention | None = None
    """Kernel of the core attention; in a Run never None: the first that the GPU's file names."""
    attention_dropout: Probability = 0.0
    hidden_dropout: Probability = 0.0
    ops: Literal["eager", "fused", "compiled"] = "fused"
    """Elementwise work: PyTorch's ops one by one, hand-fused kernels, or a compiler's."""
    params_dtype: Stored = "bf16"
    """In a Run of precision fp16, fp32 or fp64: that type, unless stated."""
    master_weights: Literal["fp32"] | None = "fp32"
    """Extra copy of the weights in the optimizer; None: the parameters themselves are the masters."""
    gradient_dtype: Stored = "fp32"
    """In which gradients are accumulated and reduced. In a Run of precision fp64: fp64, unless stated."""
    fused_weight_gradient: Flag = True
    """The matmul adds the weight gradient into the gradient buffer."""
    fused_moe_activation: Flag = True
    """Expert activation and weighting in one kernel."""
    loss: Loss = "megatron"
    """Cross-entropy: Megatron's vocabulary-parallel one in place, Transformer Engine's fused one, PyTorch's, a
    compiler's. A file may also say vocab_parallel (Megatron's) and loss_parallel (PyTorch's over tp).
    """
    vocab_pad_multiple: Count | None = 128
    """The vocabulary is padded to a multiple of this times tp; None: not padded."""
    tp_overlap: Literal["none", "te_userbuffers", "async_tp"] = "none"
    dp_overlap: Flag = True
    bucket_bytes: BucketBytes | None = None
    """Replicas' gradients are reduced in buckets of so much (PyTorch DDP: 25 MiB); None: as Megatron, 40 M elements."""
    first_bucket_bytes: BucketBytes | None = None
    """The first bucket of a backward (PyTorch DDP: 1 MiB); None: as the others."""
    ep_overlap: Flag = False
    moe_dispatcher: Literal["alltoall", "allgather", "deepep", "hybridep"] = "alltoall"
    routing: Literal["balanced", "learned", "token_drop", "unknown"] = "balanced"
    """Learned if a skew is stated and this is not; token_drop if a capacity is."""
    router_skew: RouterSkew | None = None
    """None: every expert gets the mean."""
    balance_loss: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    """The part of the skew that the router's auxiliary loss takes away; 1: all of it."""
    capacity_factor: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | None = None
    """token_drop: an expert takes ceil(this * k T / E) of a rank's T tokens and drops the others; None: 1."""
    pad_to_capacity: Flag = True
    """token_drop: experts with fewer tokens are filled up, so that every expert computes as many."""
    cuda_graphs: CudaGraphs = "none"
    deterministic_attention: Flag = False
    post_validation: Flag = False
    """Zero bubble: the optimizer steps first and is checked afterwards, so that no barrier ends the step (2401.10241,
    section 4).
    """
    throttled: Flag = True
    """Sustained, power-limited clocks; false: a short benchmark at full clock."""
    fsdp_unit: Literal["layer", "tensor"] = "layer"
    """What ZeRO-3 gathers at a time."""
    fsdp_root: Literal["stays", "reshards"] = "stays"
    """Whether what no layer has (embedding, head) stays whole from forward to backward, as PyTorch leaves it, or is
    sharded again after the forward, as it can be asked to."""
    optimizer: Literal["adam", "lamb", "muon", "sgd", "momentum"] = "adam"
    memory_reports: Literal["max_allocated", "max_reserved", "device"] = "max_allocated"
    """Which of the three memories the framework's log states."""
    memory_unit: Literal["GiB", "GB"] = "GiB"
    memory_rank: Literal["max", "last"] = "max"

    @model_validator(mode="after")
    def _consistent_buckets(self) -> Self:
        if self.first_bucket_bytes is not None and self.bucket_bytes is None:
            raise ValueError("first_bucket_bytes: state bucket_bytes, the size of the others, too")
        return self

    @model_validator(mode="after")
    def _consistent_routing(self) -> Self:
        if self.routing == "balanced" and (self.router_skew is not None or self.balance_loss):
            raise ValueError("routing balanced has no skew and needs no balance_loss; learned or token_drop would do")
        if self.routing != "token_drop" and self.capacity_factor is not None:
            raise ValueError(f"routing {self.routing} drops no tokens; token_drop has a capacity_factor")
        return self

    @property
    def parameter_bytes(self) -> int:
        """Bytes of a stored weight."""
        return _STORED_BYTES[self.params_dtype]

    @property
    def master_bytes(self) -> int:
        """Bytes of a weight's extra copy in the optimizer; 0 if there is none."""
        return 0 if self.master_weights is None else _STORED_BYTES[self.master_weights]

    @property
    def gradient_bytes(self) -> int:
        """Bytes of an element of the gradients as they are accumulated and reduced."""
        return _STORED_BYTES[self.gradient_dtype]

    @model_validator(mode="wrap")
    @classmethod
    def _preset(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, dict):
            return handler(data)
        data = {key: value for key, value in data.items() if value is not None or key in _MAY_BE_NONE}
        framework = data.get("framework", "megatron-core")
        preset = PRESETS.get(framework, {}) if isinstance(framework, str) else {}
        software = handler({**preset, **_routed(data)})
        software.model_fields_set.intersection_update(data)  # a preset is not what the user said
        return software
