"""The axes of a run: what each cuts, in both views of its ranks, and the lengths that a rank is left with."""

from collections.abc import Iterator
from dataclasses import dataclass

from parsim.axes.axis import Axis, local_sizes
from parsim.axes.cp import ContextAxis
from parsim.axes.dp import DataAxis
from parsim.axes.ep import ExpertAxis
from parsim.axes.pp import PipelineAxis
from parsim.axes.tp import TensorAxis
from parsim.model.dims import Dim, Extent, Sizes, extent_dims, model_sizes, padded_vocab
from parsim.model.routing import crowding_of
from parsim.spec import Run

__all__ = ["InnerAxes", "RunAxes", "axes_of"]

_CUT_MESSAGES = frozenset({"megatron-2021", "megatron-2022", "zero-bubble-megatron"})  # scatter, send, gather


@dataclass(frozen=True)
class InnerAxes:
    """The axes whose collectives stand between an op's kernels. The experts' are None where the model has none.

    `computed`: rows that experts compute on the mean rank over those routed.
    """

    tensor: TensorAxis
    context: ContextAxis
    expert: ExpertAxis | None = None
    expert_tensor: TensorAxis | None = None
    computed: float = 1.0

    def __iter__(self) -> Iterator[Axis]:
        found = (self.tensor, self.context, self.expert, self.expert_tensor)
        return (axis for axis in found if axis is not None)

    def region(self, sizes: Sizes, extent: Extent, experts: bool = False) -> Sizes:
        """Lengths for work over `extent` on one rank: with sequence parallelism tp cuts the tokens where it cuts no dim
        (experts' tokens it never cuts: they were cut when they were sent; of those it is the busiest rank's).
        """
        if experts:
            return self.busiest(sizes)
        if not self.tensor.sequence_parallel or extent_dims(extent) & self.tensor.cuts:
            return sizes
        return {**sizes, Dim.SEQ: sizes[Dim.SEQ] / self.tensor.degree}

    def busiest(self, sizes: Sizes) -> Sizes:
        """Lengths with the rows that experts have on the busiest rank, which sets the pace of all."""
        return sizes if self.expert is None else _routed(sizes, self.expert.crowding)

    def mean(self, sizes: Sizes) -> Sizes:
        """Lengths with the rows that experts compute on the mean rank, dropped and padded ones accounted for."""
        return _routed(sizes, self.computed)


@dataclass(frozen=True)
class RunAxes:
    """All axes of one run. The experts' are None where the model has none."""

    inner: InnerAxes
    data: DataAxis
    pipeline: PipelineAxis
    expert_data: DataAxis | None = None

    @property
    def tensor(self) -> TensorAxis:
        """The inner axis of tp."""
        return self.inner.tensor

    @property
    def context(self) -> ContextAxis:
        """The inner axis of cp."""
        return self.inner.context

    @property
    def expert(self) -> ExpertAxis | None:
        """The inner axis of ep."""
        return self.inner.expert

    @property
    def expert_tensor(self) -> TensorAxis | None:
        """The inner axis of expert_tp."""
        return self.inner.expert_tensor

    @property
    def holders(self) -> Iterator[DataAxis]:
        """The axes whose ranks hold the same weights: everyone's, and the experts'."""
        yield self.data
        if self.expert_data is not None:
            yield self.expert_data

    def sizes(self, run: Run) -> dict[Dim, float]:
        """Lengths on one rank, for one micro-batch."""
        layout = run.layout
        whole = model_sizes(run.model, layout.micro_batch_size * layout.mesh.dp, run.batch.sequence_length)
        whole[Dim.VOCAB] = padded_vocab(run.model.vocab, run.software.vocab_pad_multiple, layout.mesh.tp)
        axes: tuple[Axis, ...] = (*self.inner, *self.holders)
        return local_sizes(whole, axes, {Dim.KV: run.model.head_dim})


def _routed(sizes: Sizes, share: float) -> Sizes:
    return sizes if share == 1.0 else {**sizes, Dim.ROUTED: sizes[Dim.ROUTED] * share}


def axes_of(run: Run, expert_domains: int = 1) -> RunAxes:
    """The axes of `run`; `expert_domains`: NVLink domains that a group of ep stands on."""
    layout, mesh, word = run.layout, run.layout.mesh, run.layout.word_bytes
    zero, gradient = layout.zero_stage, run.software.gradient_bytes
    whole = mesh.pp == 1  # a pipeline keeps what FSDP gathered for the whole step, and reduces gradients once
    holders = mesh.dp * mesh.cp
    sets = holders // layout.zero_group if layout.zero_group and zero >= 2 else 1
    cut = layout.sequence_parallel or run.software.framework in _CUT_MESSAGES
    data = DataAxis(
        mesh.dp,
        sharded=zero == 3 and whole,
        regather=layout.reshard_after_forward,
        gradient_bytes=gradient,
        word_bytes=word,
        scattered=zero == 2 and whole,
        ranks=holders,
        sets=sets,
        experts=False,
    )
    tensor = TensorAxis(mesh.tp, layout.sequence_parallel, run.model.parallel_residual, word)
    context = ContextAxis(mesh.cp, layout.cp_comm, word, layout.cp_split == "zigzag")
    pipeline = PipelineAxis(mesh.pp, 1 / mesh.tp if cut else 1.0, word)
    moe = run.model.moe
    if moe is None:
        return RunAxes(InnerAxes(tensor, context), data, pipeline)
    crowding = crowding_of(run)
    inner = InnerAxes(
        tensor,
        context,
        ExpertAxis(
            layout.ep,
            moe.topk,
            run.software.moe_dispatcher,
            expert_domains,
            layout.expert_tp,
            word,
            moe.groups,
            moe.topk_groups,
            crowding.busiest(layout.ep),
            crowding.busiest(expert_domains),
        ),
        TensorAxis(layout.expert_tp, layout.sequence_parallel, word_bytes=word, name="expert_tp", experts=True),
        crowding.computed,
    )
    return RunAxes(
        inner,
        data,
        pipeline,
        DataAxis(
            run.expert_dp,
            data.sharded,
            data.regather,
            gradient,
            word,
            scattered=data.scattered,
            experts=True,
        ),
    )
