"""The time of work limited by memory traffic: bytes read and written over what elementwise kernels reach of HBM."""

from parsim.cost.sublayout import Sublayout
from parsim.model.dims import Sizes, length, rows_of
from parsim.model.layer import Elementwise, Pass

__all__ = ["elementwise_seconds"]


def elementwise_seconds(work: Elementwise, sizes: Sizes, which: Pass, layout: Sublayout) -> float:
    """Seconds of `work` for local `sizes` (with sequence parallelism, those of its cut region).

    forward = word bytes * passes * tokens * width / hbm_eff, backward 1.75 times that, all of it in I; the embedding's
    backward is in W. Dropout costs nothing where the run has none. A router is many small kernels: 33 us.
    """
    if which == "W" and work.role != "embedding":
        return 0.0
    rates, constants = layout.rates, layout.constants
    if work.role == "router":
        return constants.router_s if which == "F" else constants.router_s * constants.elementwise_backward
    elements = rows_of(sizes, work.experts) * length(work.width, sizes)
    if work.role == "loss":
        share = constants.loss_forward_share if which == "F" else 1 - constants.loss_forward_share
        return share * constants.loss_bytes_per_logit * elements / rates.memory_bytes_per_s
    if work.role == "embedding":
        share = 0.0 if which == "I" else 0.5
        return share * constants.embedding_bytes * elements / rates.memory_bytes_per_s
    forward = rates.word_bytes * _passes(work, layout) * elements / rates.memory_bytes_per_s
    return forward if which == "F" else forward * constants.elementwise_backward


def _passes(work: Elementwise, layout: Sublayout) -> float:
    software, constants = layout.software, layout.constants
    if work.role == "dropout":
        return constants.dropout_passes if software.hidden_dropout > 0 else 0.0
    if work.role == "permute":
        return constants.permute_passes
    passes = {
        "norm": constants.norm_passes,
        "rope": constants.rope_passes,
        "activation": constants.activation_passes,
    }[work.role]
    if software.ops != "eager":
        return passes
    return passes * (constants.eager_gated if layout.model.norm == "rms" else constants.eager_plain)
