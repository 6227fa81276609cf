"""Experts in the ledger: router, shared expert, dispatch, the routed experts' MLP, combine.

T = s b K / sp tokens are received on balanced routing, expert_tp times as many where the experts are cut (they are
gathered), on the busiest rank as many times more as routing is uneven; X = word T h bytes. The output of the norm is
shared by router, shared expert and dispatch. A router keeps about 17 bytes an expert and token (logits, probabilities,
map, loss). Buffers of the exchanges, counted on one layer of Megatron-core d98e8a6:

    alltoall   2 X to dispatch, 3 X and the output to combine (permuted, sent, received)
    deepep     a token once for each of the `reach` ranks that its experts are on: X reach / K, and X more to combine
    hybridep   nothing to dispatch, X to combine
    allgather  the tokens of all ranks of the group
"""

from parsim.axes.ep import ExpertAxis
from parsim.memory.ledger.entry import Entry
from parsim.memory.ledger.kernels import hidden_mask
from parsim.memory.ledger.linear import mlp, weight_gradient
from parsim.memory.ledger.tokens import Tokens
from parsim.model.routing import crowding_of
from parsim.spec import MoeSpec, Run

__all__ = ["activation_bytes", "experts", "received_tokens"]

_ROUTER_BYTES = 17
_WEIGHTED_EAGER = (4, 12)  # bytes an element of an unfused weighted activation keeps, and needs: three fp32 tensors


def received_tokens(run: Run, at: Tokens) -> float:
    """T: rows that the experts of the busiest rank compute for one micro-batch."""
    moe, layout = run.model.moe, run.layout
    if moe is None:
        return 0.0
    return at.count * moe.topk * layout.expert_tp / at.sp * crowding_of(run).busiest(layout.ep)


def activation_bytes(run: Run, at: Tokens) -> float:
    """The result of the experts' activation: what recomputing it saves."""
    moe = run.model.moe
    return 0.0 if moe is None else at.kept_input(at.word * received_tokens(run, at) * _width(run, moe))


def experts(run: Run, moe: MoeSpec, at: Tokens, normed: float) -> tuple[Entry, ...]:
    """The ops behind the second norm, in forward order; `normed` are the bytes of its output."""
    rows, width = received_tokens(run, at), _width(run, moe)
    gates = 2 if run.model.gated_mlp else 1
    inputs, inner = at.word * rows * run.model.hidden, at.word * rows * width
    kept, needed = (0.0, (gates + 1) * inner) if run.software.fused_moe_activation else (
        _WEIGHTED_EAGER[0] * rows * width,
        _WEIGHTED_EAGER[1] * rows * width,
    )  # fmt: skip
    sent, returned = _exchanged(run, moe, at, inputs)
    weight = weight_gradient(run, at, run.model.hidden * width * moe.experts / run.layout.ep)
    shared = mlp(run, at, moe.shared_ffn / at.tp, "shared ") if moe.shared_ffn else ()
    return (
        Entry("router", saved=normed + _ROUTER_BYTES * moe.experts * at.count / at.sp, kept=normed),
        *shared,
        Entry("dispatch", forward=sent, backward=sent, tensor="routed tokens"),
        Entry(
            "expert fc1",
            saved=at.kept_input(inputs),
            kept=at.kept_input(inputs) + gates * inner,
            forward=gates * inner,
            backward=inputs + gates * inner + gates * weight,
            weight=gates * weight,
            tensor="routed tokens",
        ),
        Entry("expert activation", saved=gates * inner + kept, forward=inner, backward=needed),
        Entry(
            "expert fc2",
            saved=at.kept_input(inner),
            kept=at.kept_input(inner) + inputs,
            forward=inputs,
            backward=inputs + inner + weight,
            weight=weight,
            tensor="routed tokens",
        ),
        Entry("combine", saved=hidden_mask(run, at), forward=returned, backward=returned, tensor="routed tokens"),
    )


def _width(run: Run, moe: MoeSpec) -> float:
    return moe.expert_ffn / run.layout.expert_tp


def _exchanged(run: Run, moe: MoeSpec, at: Tokens, inputs: float) -> tuple[float, float]:
    """Buffers of dispatch and combine. Where low precision pads the tokens of an expert, two more copies of them."""
    how, padded = run.software.moe_dispatcher, 2 * inputs if at.quantised else 0.0
    if how == "hybridep":
        return 0.0, inputs
    if how == "alltoall":
        return 2 * inputs, 3 * inputs + at.stream + padded
    if how == "allgather":
        group = at.stream * run.layout.ep * run.layout.expert_tp
        return group + inputs, group + inputs + at.stream
    axis = ExpertAxis(run.layout.ep, moe.topk, "deepep", groups=moe.groups, topk_groups=moe.topk_groups)
    reached = inputs * axis.reached(run.layout.ep) / moe.topk
    return reached, inputs + reached + padded
