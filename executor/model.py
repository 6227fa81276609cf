"""Model: Llama-style and GPT-style decoders in plain PyTorch, cut into parts; their weights are parsim.model's.

Weights are [out, in]; activations [b, s, h] with b sequences of s tokens of a micro-batch.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from executor.attention import PLAIN, Kernels, attend, dropped, kernels_of
from executor.initial import fill
from executor.precision import parameter_dtype
from executor.split_backward import cast, compute_dtype, embedding, linear
from parsim.errors import LayoutError
from parsim.model.weights import Weight, embedding_weights, final_norm_weights, head_weights, layer_weights
from parsim.spec import ModelSpec, Run

__all__ = ["Layer", "PartModule", "cross_entropy", "part_module"]

Turn = tuple[torch.Tensor, torch.Tensor]
"""cos and sin [s, head_dim / 2] of the angles that rotary positions turn by."""

EPSILON = 1e-5
ROPE_BASE = 10_000.0


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean over tokens of -log softmax(logits [b, s, vocab]) at targets [b, s]; in fp32 at least."""
    wide = logits if logits.dtype is torch.float64 else logits.float()
    return functional.cross_entropy(wide.flatten(0, -2), targets.flatten())


class _Weighted(nn.Module):
    """A module whose Parameters are a list of `Weight`s, found by their names there."""

    def __init__(self, weights: Sequence[Weight], device: torch.device | str, dtype: torch.dtype) -> None:
        super().__init__()
        self._names = tuple(weight.name for weight in weights)
        for weight in weights:
            parameter = nn.Parameter(torch.empty(weight.shape, device=device, dtype=dtype))
            self.register_parameter(weight.name.replace(".", "_"), parameter)

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, Parameter), in the order of the list."""
        for name in self._names:
            yield name, self.weight(name)

    def weight(self, name: str) -> nn.Parameter:
        """The Parameter called `name`."""
        found = self.get_parameter(name.replace(".", "_"))
        return found

    def bias(self, name: str) -> nn.Parameter | None:
        """The bias of the weight called `name`, None if it has none."""
        return self.weight(f"{name}.bias") if f"{name}.bias" in self._names else None

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return linear(x, self.weight(name), self.bias(name))

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """RMSNorm (Zhang & Sennrich, 1910.07467), or LayerNorm where there is a bias; in autocast's type where that is
        on, so that the linears behind it keep one copy of it together.
        """
        weight, bias = self.weight(name), self.bias(name)
        if bias is None:
            return cast(functional.rms_norm(x, weight.shape, weight.to(x.dtype), EPSILON))
        return cast(functional.layer_norm(x, weight.shape, weight.to(x.dtype), bias.to(x.dtype), EPSILON))


class Layer(_Weighted):
    """One decoder layer: attention and MLP, each after its norm, added to what came in."""

    def __init__(
        self,
        model: ModelSpec,
        layer: int,
        device: torch.device | str,
        dtype: torch.dtype,
        kernels: Kernels = PLAIN,
    ) -> None:
        super().__init__(layer_weights(model, layer), device, dtype)
        self._model, self._kernels = model, kernels
        is_windowed = model.sliding_window is not None and layer % model.sliding_window_every == 0
        self._window = model.sliding_window if is_windowed else None
        self.recomputes_core = False

    def forward(self, x: torch.Tensor, turn: Turn | None) -> torch.Tensor:
        attended = self._dropped(self._attention(self.norm(x, "attention_norm"), turn))
        if self._model.parallel_residual:
            return x + attended + self._dropped(self._mlp(self.norm(x, "mlp_norm")))
        x = x + attended
        return x + self._dropped(self._mlp(self.norm(x, "mlp_norm")))

    def _dropped(self, x: torch.Tensor) -> torch.Tensor:
        return dropped(x, self._kernels.hidden_dropout)

    def _attention(self, x: torch.Tensor, turn: Turn | None) -> torch.Tensor:
        model = self._model
        query = self._heads(self.linear(x, "query"), model.heads)
        key = self._heads(self.linear(x, "key"), model.kv_heads)
        value = self._heads(self.linear(x, "value"), model.kv_heads)
        if model.qk_norm == "per_head":
            query, key = self.norm(query, "query_norm"), self.norm(key, "key_norm")
        if turn is not None:
            query, key = _rotated(query, turn), _rotated(key, turn)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        core = (query, key, value, self._window, self._kernels)
        if self.recomputes_core:
            keeps_chance = self._kernels.is_random
            mixed = checkpoint(attend, *core, use_reentrant=False, preserve_rng_state=keeps_chance)
        else:
            mixed = attend(*core)
        return self.linear(mixed.transpose(1, 2).flatten(2), "proj")

    def _heads(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        return x.unflatten(-1, (heads, self._model.head_dim))

    def _mlp(self, x: torch.Tensor) -> torch.Tensor:
        up = self.linear(x, "mlp.up")
        if self._model.gated_mlp:
            return self.linear(functional.silu(self.linear(x, "mlp.gate")) * up, "mlp.down")
        return self.linear(functional.gelu(up, approximate="tanh"), "mlp.down")


def _rotation(length: int, width: int, device: torch.device, dtype: torch.dtype) -> Turn:
    """The angles of rotary positions (Su et al., 2104.09864) for heads of `width`; all layers share them."""
    rates = ROPE_BASE ** (-torch.arange(0, width, 2, device=device, dtype=torch.float64) / width)
    angles = torch.arange(length, device=device, dtype=torch.float64)[:, None] * rates
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotated(x: torch.Tensor, turn: Turn) -> torch.Tensor:
    """x [b, s, heads, head_dim]: both halves of each head's width turned by its position's angles.

    Positions stay before heads, as linears have them: attention's output then has their order too, and is not copied.
    """
    cos, sin = turn[0][:, None], turn[1][:, None]
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class PartModule(nn.Module):
    """A part of the model: its layers, the embedding if it is the first, final norm and head if it is the last.

    Takes token ids [b, s] or activations [b, s, h]; makes activations, or logits [b, s, vocab].
    """

    def __init__(
        self,
        model: ModelSpec,
        layers: range,
        *,
        first: bool,
        last: bool,
        device: torch.device | str,
        dtype: torch.dtype,
        kernels: Kernels = PLAIN,
    ) -> None:
        super().__init__()
        self.model, self.kernels = model, kernels
        self.first_layer = layers.start
        self.layers = nn.ModuleList(Layer(model, layer, device, dtype, kernels) for layer in layers)
        self.ends_first = _Weighted(embedding_weights(model), device, dtype) if first else None
        tied = embedding_weights(model)[:1] if last and model.tied_embeddings and not first else ()
        ends = (*final_norm_weights(model), *head_weights(model), *tied)
        self.ends_last = _Weighted(ends, device, dtype) if last else None
        self._recomputed = 0

    def recompute(self, mode: str, layers: int) -> None:
        """Compute again in the backward: the first `layers` layers (full), or the core attention (selective)."""
        self._recomputed = layers if mode == "full" else 0
        for layer in self.layers:
            layer.recomputes_core = mode == "selective"

    def weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(canonical name, Parameter) as in `parsim.model.weights.model_weights`."""
        if self.ends_first is not None:
            yield from self.ends_first.named()
        for index, layer in enumerate(self.layers):
            for name, parameter in layer.named():
                yield f"layer{self.first_layer + index}.{name}", parameter
        if self.ends_last is not None:
            yield from self.ends_last.named()

    @property
    def embedding(self) -> nn.Parameter:
        """The token embedding: of the first part, or the last part's copy of a tied one."""
        holder = self.ends_first if self.ends_first is not None else self.ends_last
        assert holder is not None
        return holder.weight("embedding")

    def share_embedding(self, other: "PartModule") -> None:
        """Use the embedding of another part of the same rank instead of a copy."""
        for holder in (self.ends_first, self.ends_last):
            if holder is not None and "embedding" in holder._names:
                holder.register_parameter("embedding", other.embedding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.ends_first is not None:
            tokens = x
            x = embedding(tokens, self.ends_first.weight("embedding"))
            if self.model.positions == "learned":
                places = torch.arange(tokens.shape[-1], device=tokens.device)
                x = x + embedding(places, self.ends_first.weight("positions"))
            x = dropped(x, self.kernels.hidden_dropout)
        turn = None
        if self.model.positions == "rope":
            turn = _rotation(x.shape[1], self.model.head_dim, x.device, compute_dtype(x))
        for index, layer in enumerate(self.layers):
            if index < self._recomputed:
                x = checkpoint(layer, x, turn, use_reentrant=False, preserve_rng_state=self.kernels.is_random)
            else:
                x = layer(x, turn)
        if self.ends_last is None:
            return x
        x = self.ends_last.norm(x, "final_norm")
        return linear(x, self.embedding if self.model.tied_embeddings else self.ends_last.weight("head"))


def part_module(
    run: Run, part: int, parts: int, device: torch.device | str, dtype: torch.dtype | None = None
) -> PartModule:
    """Part `part` of `parts`, its weights as the run's seed and their names say (the same in every layout).

    LayoutError for a model that cannot be built, or layers that cannot be split so.
    """
    model = run.model
    for name, found, would_do in (
        ("moe", model.moe, "a dense model"),
        ("mla", model.mla, "plain or grouped-query attention"),
        ("mtp_layers", model.mtp_layers or None, "0"),
    ):
        if found is not None:
            raise LayoutError(f"model.{name}: the executor cannot play this yet; {would_do} would do")
    layers = (model.layers,) if parts == 1 else run.layers_of_parts(parts)
    start = sum(layers[:part])
    module = PartModule(
        model,
        range(start, start + layers[part]),
        first=part == 0,
        last=part == parts - 1,
        device=device,
        dtype=parameter_dtype(run) if dtype is None else dtype,
        kernels=kernels_of(run),
    )
    if torch.device(device).type != "meta":
        for name, parameter in module.weights():
            fill(parameter, name, run.seed, run.model.layers)
    return module
