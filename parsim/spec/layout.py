"""Layout: how a run is cut over its GPUs, and in which order the cuts are played."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from parsim.spec.base import AtLeastZero, Count, Flag, Name, Spec
from parsim.spec.offload import Offload, first_layers
from parsim.spec.split import Split

__all__ = ["Layout", "Mesh", "Precision", "RecomputeModule", "RecomputeSpec"]

Precision = Literal[
    "fp64",
    "fp32",
    "tf32",
    "bf16",
    "fp16",
    "fp8",
    "fp8-tensorwise",
    "fp8-current-scaling",
    "fp8-delayed-scaling",
    "fp8-hybrid",
    "fp8-rowwise",
    "fp8-blockwise",
    "fp8-fine-grained",
    "mxfp8",
    "nvfp4",
]
"""Type of the layers' matmuls. "fp8" alone is one scale a tensor; rowwise, blockwise, fine-grained: many scales."""

RecomputeModule = Literal[
    "core_attn", "layernorm", "moe_act", "act", "mla_up_proj", "mlp", "moe", "every_second_matmul"
]


class Mesh(Spec):
    """Degrees of the axes, innermost first: ranks that differ only in tp are neighbours, then cp, dp, pp."""

    tp: Count = 1
    cp: Count = 1
    dp: Count = 1
    pp: Count = 1

    @property
    def size(self) -> int:
        """Ranks of the mesh."""
        return self.tp * self.cp * self.dp * self.pp


class RecomputeSpec(Spec):
    """What is computed again in the backward instead of being kept. May be written as its mode alone.

    `full`: whole layers. `selective`: the named modules (the core attention unless stated). `layers` of a pipeline
    rank are recomputed (null: all), the first ones; with the `method` uniform all are, in groups of `layers`, each from
    the input of its first (Megatron's two methods).
    """

    mode: Literal["none", "full", "selective"] = "none"
    modules: tuple[RecomputeModule, ...] = ()
    layers: AtLeastZero | None = None
    method: Literal["block", "uniform"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _word(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"mode": data}
        if isinstance(data, dict) and data.get("mode") == "selective" and not data.get("modules"):
            data = {**data, "modules": ("core_attn",)}
        return data

    def layers_of(self, layers: Sequence[int]) -> tuple[int, ...]:
        """Layers recomputed in full on each stage of a pipeline rank whose stages have these layers."""
        return self.touched_of(layers) if self.mode == "full" else (0,) * len(layers)

    def touched_of(self, layers: Sequence[int]) -> tuple[int, ...]:
        """The same of layers of which anything is recomputed, modules too: `layers` of the rank in all, its first
        stages' first.
        """
        if self.mode == "none":
            return (0,) * len(layers)
        return first_layers(sum(layers) if self.layers is None or self.method == "uniform" else self.layers, layers)

    @property
    def group_layers(self) -> int:
        """Layers that are recomputed together, from one input."""
        return max(self.layers or 1, 1) if self.method == "uniform" else 1

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.mode != "selective" and self.modules:
            raise ValueError(f"modules belong to mode selective, not to {self.mode}")
        if self.mode == "none" and (self.layers or self.method):
            raise ValueError("layers and method belong to a mode; say full or selective")
        if len(set(self.modules)) != len(self.modules):
            raise ValueError("a module is named twice")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"enum": ["none", "full", "selective"]}, handler(core)]}


class Layout(Spec):
    """Mesh, schedule and sharding. Each field but the mesh has a default, which a run reports as assumed."""

    mesh: Mesh = Mesh()
    schedule: Name = "1f1b"
    stages_per_rank: Count | None = None
    """None: what the schedule takes by default."""
    group_size: Count | None = None
    """Interleaved: micro-batches of a stage in a row; None: pp."""
    activation_limit_stages: Annotated[float, Field(strict=True, ge=1, le=1e9, allow_inf_nan=False)] | None = None
    """Automatic zero bubble: the most that a pipeline rank holds, in activations of its stage; None: pp."""
    micro_batch_size: Count = 1
    """Sequences of a micro-batch."""
    zero: Annotated[int, Field(strict=True, ge=0, le=3)] = 0
    """0 none, 1 optimizer states sharded, 2 also gradients, 3 also parameters."""
    zero_group: Count | None = None
    """Ranks that share one set of shards; None: all dp * cp of them."""
    fsdp: Flag = False
    """Parameters are gathered unit by unit (PyTorch FSDP)."""
    reshard_after_forward: Flag = True
    """FSDP gathers again in the backward."""
    sequence_parallel: Flag = False
    """Norms and dropout are cut over tp along the sequence."""
    recompute: RecomputeSpec = RecomputeSpec()
    precision: Precision = "bf16"
    ep: Count = 1
    """Experts are cut over ep of the dp * cp * tp / expert_tp ranks."""
    expert_tp: Count = 1
    split: Split = "even"
    cp_comm: Literal["ring", "a2a", "allgather"] = "ring"
    cp_split: Literal["zigzag", "contiguous"] = "zigzag"
    """Which tokens a rank of cp has: two slices that add up to the same causal work, or one slice."""
    offload: Offload | None = None

    @property
    def zero_stage(self) -> int:
        """The ZeRO stage that the sharding amounts to: FSDP cuts all that stage 3 does."""
        return 3 if self.fsdp else self.zero

    @property
    def word_bytes(self) -> int:
        """Bytes of an element of activations and of the weights that are computed with."""
        return 8 if self.precision == "fp64" else 4 if self.precision in ("fp32", "tf32") else 2
