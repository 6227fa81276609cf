"""Offload: what a rank keeps in its node's memory instead of its own."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import model_validator

from parsim.spec.base import AtLeastZero, Flag, Spec

__all__ = ["Offload", "OffloadModule", "first_layers"]

OffloadModule = Literal["attn_norm", "qkv_linear", "core_attn", "attn_proj", "mlp_norm", "expert_fc1", "moe_act"]
"""Megatron's names: the module whose input moves."""


def first_layers(count: int, layers: Sequence[int]) -> tuple[int, ...]:
    """How many of `count` layers are on each stage of a pipeline rank whose stages have these: the first ones."""
    return tuple(max(0, min(here, count - sum(layers[:stage]))) for stage, here in enumerate(layers))


class Offload(Spec):
    """Activations moved to the host between forward and backward: all, those of some layers, or of some modules; the
    optimizer's states, updated there; the layers' weights, fetched for each pass.
    """

    activations: Flag = False
    activation_layers: AtLeastZero = 0
    """Layers of a pipeline rank whose activations move, its first stages' first."""
    modules: tuple[OffloadModule, ...] = ()
    optimizer: Flag = False
    weights: Flag = False

    @property
    def moves_activations(self) -> bool:
        """Whether anything leaves between forward and backward."""
        return self.activations or self.activation_layers > 0 or bool(self.modules)

    def layers_of(self, layers: Sequence[int]) -> tuple[int, ...]:
        """Layers that are offloaded, the first ones, on each stage of a pipeline rank whose stages have these."""
        if self.activations or self.modules:
            return tuple(layers)
        return first_layers(self.activation_layers, layers)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        named = [
            name
            for name, said in (
                ("activations", self.activations),
                ("activation_layers", self.activation_layers > 0),
                ("modules", bool(self.modules)),
            )
            if said
        ]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} both say which activations move; one of them would do")
        if len(set(self.modules)) != len(self.modules):
            raise ValueError("a module is named twice")
        if "attn_proj" in self.modules and "core_attn" not in self.modules:
            raise ValueError("attn_proj moves what core_attn made and needs to move too; core_attn with it would do")
        return self
