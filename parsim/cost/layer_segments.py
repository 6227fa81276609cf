"""The segments of one layer, embedding or head in a pass: its work as kernels, what the axes owe between them."""

from collections.abc import Iterable

from parsim.axes.axis import Axis, Comm, local_sizes
from parsim.axes.dp import DataAxis
from parsim.axes.tp import TensorAxis
from parsim.cost.attention import attention_seconds
from parsim.cost.constants import Constants
from parsim.cost.elementwise import elementwise_seconds
from parsim.cost.matmul import matmul_seconds
from parsim.cost.rates import Rates
from parsim.cost.segments import Block, Collective, Kernel, Segment
from parsim.model.dims import Dim, Sizes, extent_dims, model_sizes, padded_vocab
from parsim.model.layer import AttentionCore, Elementwise, Matmul, Pass, Work, shape
from parsim.network.price import Latency, Path, collective_seconds
from parsim.spec import Run

__all__ = ["LayerSegments", "local_sizes_of"]


def local_sizes_of(run: Run, tp: TensorAxis, dp: DataAxis) -> dict[Dim, float]:
    """Lengths on one rank of `run`, for one micro-batch."""
    layout = run.layout
    sizes = model_sizes(run.model, layout.micro_batch_size * layout.mesh.dp, run.batch.sequence_length)
    sizes[Dim.VOCAB] = padded_vocab(run.model.vocab, run.software.vocab_pad_multiple, layout.mesh.tp)
    axes: tuple[Axis, ...] = (tp, dp)
    return local_sizes(sizes, axes, {Dim.KV: run.model.head_dim})


class LayerSegments:
    """Prices the work of a run's layers on one rank. `path` is what its tensor-parallel group talks over."""

    def __init__(self, run: Run, tp: TensorAxis, sizes: Sizes, path: Path, rates: Rates, constants: Constants) -> None:
        self._run, self._tp, self._sizes, self._path = run, tp, sizes, path
        self._rates, self._constants = rates, constants

    def forward(self, work: tuple[Work, ...], matmul_share: float = 1.0, comm_share: float = 1.0) -> Block:
        """The block of F. The shares shorten matmuls (with the attention core) and collectives: what a partial
        recomputation plays again.
        """
        segments: list[Segment] = []
        comms = self._tp.comms(work, self._sizes, "F")
        for item in work:
            seconds = self._seconds(item, "F") * (1.0 if isinstance(item, Elementwise) else matmul_share)
            segments += self._beside(item, comms, [Kernel(item.name, seconds)], comm_share)
        return tuple(s for s in segments if s.seconds > 0)

    def input_gradient(self, work: tuple[Work, ...], core_again: bool = False) -> Block:
        """The block of I: the work in reverse; with `core_again` the attention core's forward before its backward."""
        segments: list[Segment] = []
        comms = self._tp.comms(work, self._sizes, "I")
        for item in reversed(work):
            kernels = [Kernel(f"{item.name}_input", self._seconds(item, "I"))]
            if core_again and isinstance(item, AttentionCore):
                kernels.insert(0, Kernel(f"{item.name}_again", self._seconds(item, "F")))
            segments += self._beside(item, comms, kernels)
        return tuple(s for s in segments if s.seconds > 0)

    def weight_gradient(self, work: tuple[Work, ...]) -> Block:
        """The block of W: the weight gradients in reverse."""
        segments: list[Segment] = []
        comms = self._tp.comms(work, self._sizes, "W")
        for item in reversed(work):
            segments += self._beside(item, comms, [Kernel(f"{item.name}_weight", self._seconds(item, "W"))])
        return tuple(s for s in segments if s.seconds > 0)

    def _beside(self, item: Work, comms: Iterable[Comm], kernels: list[Kernel], share: float = 1.0) -> list[Segment]:
        """The kernels of a piece of work with its collectives where they belong: one that overlaps is issued first."""
        before: list[Segment] = []
        after: list[Segment] = []
        for comm in comms:
            if comm.at == item.name:
                collective = self._collective(comm, share)
                (before if comm.before or collective.overlaps else after).append(collective)
        return [*before, *kernels, *after]

    def _collective(self, comm: Comm, share: float) -> Collective:
        constants, overlap = self._constants, self._run.software.tp_overlap
        call = constants.tp_all_reduce_s if comm.kind == "all_reduce" else constants.tp_half_s
        latency = Latency(call, 0.0, self._run.cluster.node.nic_latency_s)
        seconds = share * collective_seconds(comm.kind, comm.size_bytes, self._path, latency)
        contention = {
            "none": constants.pair_contention,
            "te_userbuffers": constants.tp_overlapped,
            "async_tp": constants.tp_async,
        }[overlap]
        if comm.regather:
            contention = min(contention, constants.tp_regather) if overlap != "none" else constants.tp_regather
        overlaps = comm.regather or overlap != "none"
        return Collective(comm.kind, comm.axis, comm.size_bytes, self._path.ranks, seconds, overlaps, contention)

    def _seconds(self, item: Work, which: Pass) -> float:
        run, sizes, rates, constants = self._run, self._sizes, self._rates, self._constants
        if isinstance(item, Matmul):
            return matmul_seconds(*shape(item, sizes, which), rates, constants)
        if isinstance(item, AttentionCore):
            deterministic = run.software.deterministic_attention
            if which == "W":
                return 0.0
            return attention_seconds(
                sizes, run.model.head_dim, "F" if which == "F" else "B", rates, constants, deterministic
            )
        if self._tp.sequence_parallel and not extent_dims(item.width) & self._tp.cuts and item.role != "embedding":
            sizes = {**sizes, Dim.SEQ: sizes[Dim.SEQ] / self._tp.degree}
        return elementwise_seconds(item, sizes, which, run, rates, constants)
