"""The parts of a run's model as the ledger sees them: which layers, which weights, which blocks of ops."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

from parsim.memory.gathered import Passing, passing
from parsim.memory.host import moved_bytes, moved_units
from parsim.memory.ledger.ends import embedding, head, mtp_projection, stage_output, stage_start
from parsim.memory.ledger.entry import Block, Entry, Unit
from parsim.memory.ledger.kernels import is_cpu
from parsim.memory.ledger.layer import layer_units, with_gradients
from parsim.memory.ledger.tokens import Tokens, tokens_of
from parsim.memory.presets import habits_of
from parsim.memory.stage import StageActivations, scan
from parsim.memory.states import Held, gradient_bytes_of, held_of
from parsim.model.dims import padded_vocab
from parsim.model.layer import LayerKind, layer_kind
from parsim.model.weights import (
    Weight,
    embedding_weights,
    final_norm_weights,
    head_weights,
    layer_weights,
    mtp_weights,
)
from parsim.spec import ModelSpec, Run

__all__ = ["Parts"]


@dataclass(frozen=True)
class Parts:
    """A run's model cut into parts of `layers` layers each, the first with the embedding, the last with the head."""

    run: Run
    layers: tuple[int, ...]

    @cached_property
    def model(self) -> ModelSpec:
        """The model with its vocabulary padded."""
        model, multiple = self.run.model, self.run.software.vocab_pad_multiple
        return model.model_copy(update={"vocab": padded_vocab(model.vocab, multiple, self.run.layout.mesh.tp)})

    @cached_property
    def at(self) -> Tokens:
        """The sizes of a micro-batch."""
        return tokens_of(self.run)

    @property
    def last(self) -> int:
        """The part with the head."""
        return len(self.layers) - 1

    def numbers(self, part: int) -> range:
        """The layers of a part, as the model counts them."""
        first = sum(self.layers[:part])
        return range(first, first + self.layers[part])

    def kinds(self, part: int) -> list[LayerKind]:
        """The kinds of a part's layers, in order; an extra prediction layer's at the end."""
        found = [layer_kind(self.model, layer) for layer in self.numbers(part)]
        return found + [layer_kind(self.model, self.model.layers)] * (self.model.mtp_layers if part == self.last else 0)

    @cached_property
    def _layer_held(self) -> dict[bool, Held]:
        """What a rank holds of a layer, with or without experts."""
        model, found = self.model, dict[bool, Held]()
        for layer in (0, model.layers):
            found[model.is_moe_layer(layer)] = held_of(self.run, layer_weights(model, layer))
        return found

    def layers_held(self, parts: Sequence[int]) -> list[Held]:
        """What a rank that holds `parts` has of each of its layers (not of those of extra predictions)."""
        return [self._layer_held[self.model.is_moe_layer(n)] for part in parts for n in self.numbers(part)]

    def ends_held(self, parts: Sequence[int]) -> Held:
        """The same of embedding, final norm, head and extra predictions; copies of the embedding where ends stand
        apart: one of a tied token table for the head, one for extra predictions.
        """
        model, weights = self.model, list[Weight]()
        for part in parts:
            weights += embedding_weights(model) if part == 0 else ()
            if part == self.last:
                weights += (*final_norm_weights(model), *head_weights(model), *mtp_weights(model))
        if self.last in parts and 0 not in parts and (model.tied_embeddings or model.mtp_layers):
            weights += embedding_weights(model)[:1]
        return held_of(self.run, weights)

    def activations(self, part: int, recomputed: int, moved: int = 0) -> StageActivations:
        """One part's bytes for a micro-batch, with its first `recomputed` layers recomputed in full and what the first
        `moved` save on the host.
        """
        weights = sum(self.layers_held([part]), self.ends_held([part])).whole
        window = moved_bytes(self.run, self.kinds(part)[moved - 1]) if 0 < moved == self.layers[part] else 0.0
        found = scan(tuple(self.blocks(part, recomputed, moved)))
        return replace(found, weights=self.at.word * weights, window=window)

    def blocks(self, part: int, recomputed: int, moved: int = 0) -> Iterator[Block]:
        """The blocks of one part in forward order."""
        run, at, model = self.run, self.at, self.model
        if part == 0:
            yield self._block((embedding(run, at),), embedding_weights(model), "embedding")
        start = stage_start(run, at, first=part == 0 or recomputed > 0)
        if start.saved:
            yield Block((Unit((start,)),))
        kinds = self.kinds(part)[: self.layers[part]]
        ends = len(kinds) - 1 if self._passing and run.layout.recompute.group_layers == 1 else None
        marked = [
            (
                kind if is_cpu(run) else _without_window(kind),
                index < recomputed,
                index < moved,
                "last layer" if index == ends else "layer",
            )
            for index, kind in enumerate(kinds)
        ]
        for (kind, again, away, place), same in groupby(marked):
            yield from self._layers(kind, again, away, place, len(list(same)))
        if part == self.last:
            weights = head_weights(model) if not model.tied_embeddings else embedding_weights(model)[:1]
            for index in range(model.mtp_layers):
                yield from self._mtp(index)
            yield self._block(head(run, at, model.vocab), (*final_norm_weights(model), *weights), "head")
        elif habits_of(run.software).keeps_output:
            yield Block((Unit((stage_output(at),)),))

    def _layers(self, kind: LayerKind, again: bool, away: bool, place: str, count: int) -> Iterator[Block]:
        """Layers alike: each a block of its own, or groups that are recomputed together from one input; `away`: what
        they save is on the host until their backward.
        """
        model, recompute = self.model, self.run.layout.recompute
        number = model.layers if kind.experts else 0
        units = layer_units(self.run, self.at, kind)
        if away:
            units = moved_units(self.run, self.at, units)
        if self._lazy:
            weights = gradient_bytes_of(self.run, layer_weights(model, number))
            units = tuple(replace(unit, entries=with_gradients(unit.entries, weights)) for unit in units)
        if place in self._passing:
            units = tuple(replace(unit, entries=self._passing[place].added_to(unit.entries)) for unit in units)
        if not again:
            yield Block(units, count)
            return
        entries = tuple(entry for unit in units for entry in unit.entries)
        group = min(recompute.group_layers, count)
        yield Block((Unit(entries * group, self.at.stream),), count // group)
        if rest := count % group:
            yield Block((Unit(entries * rest, self.at.stream),))

    def _mtp(self, index: int) -> Iterator[Block]:
        """One more prediction: norms and projection, a layer, a norm, the head and its loss once more."""
        run, at, model = self.run, self.at, self.model
        weights = [
            replace(weight, name=weight.name.partition(".")[2])
            for weight in mtp_weights(model)
            if weight.name.startswith(f"mtp{index}.")
        ]
        units = layer_units(run, at, layer_kind(model, model.layers))
        layer = tuple(entry for unit in units for entry in unit.entries)
        yield self._block((*mtp_projection(run, at), *layer, *head(run, at, model.vocab)), weights)

    @property
    def _lazy(self) -> bool:
        return habits_of(self.run.software).gradients != "buffer"

    def _block(self, entries: Sequence[Entry], weights: Sequence[Weight], end: str = "") -> Block:
        if self._lazy:
            entries = with_gradients(entries, gradient_bytes_of(self.run, weights))
        if end in self._passing:
            entries = self._passing[end].added_to(entries)
        return Block((Unit(tuple(entries)),))

    @cached_property
    def _passing(self) -> Mapping[str, Passing]:
        """What gathering parameters adds to the ops, for a run that shards them."""
        layer = max((held.whole for held in self._layer_held.values()), default=0.0)
        head = held_of(self.run, head_weights(self.model)).whole
        layers = sum(held.whole for held in self.layers_held(range(len(self.layers))))
        return passing(self.run, layer, layers, self.ends_held(range(len(self.layers))).whole, head)


def _without_window(kind: LayerKind) -> LayerKind:
    """The kind without its window: it changes what attention reads, and on GPUs not what it keeps."""
    return kind._replace(window=False)
