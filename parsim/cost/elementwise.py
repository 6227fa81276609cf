"""The time of work limited by memory traffic: bytes read and written over what elementwise kernels reach of HBM."""

from parsim.cost.constants import Constants
from parsim.cost.rates import Rates
from parsim.model.dims import Sizes, length, rows_of
from parsim.model.layer import Elementwise, Pass
from parsim.spec import Run

__all__ = ["elementwise_seconds"]


def elementwise_seconds(
    work: Elementwise, sizes: Sizes, which: Pass, run: Run, rates: Rates, constants: Constants
) -> float:
    """Seconds of `work` for local `sizes` (with sequence parallelism, those of its cut region).

    forward = word bytes * passes * tokens * width / hbm_eff, backward 1.75 times that, all of it in I; the embedding's
    backward is in W. Dropout costs nothing where the run has none. A router is many small kernels: 33 us.
    """
    if which == "W" and work.role != "embedding":
        return 0.0
    if work.role == "router":
        return constants.router_s if which == "F" else constants.router_s * constants.elementwise_backward
    elements = rows_of(sizes, work.experts) * length(work.width, sizes)
    if work.role == "loss":
        share = constants.loss_forward_share if which == "F" else 1 - constants.loss_forward_share
        return share * constants.loss_bytes_per_logit * elements / rates.memory_bytes_per_s
    if work.role == "embedding":
        share = 0.0 if which == "I" else 0.5
        return share * constants.embedding_bytes * elements / rates.memory_bytes_per_s
    forward = rates.word_bytes * _passes(work, run, constants) * elements / rates.memory_bytes_per_s
    return forward if which == "F" else forward * constants.elementwise_backward


def _passes(work: Elementwise, run: Run, constants: Constants) -> float:
    if work.role == "dropout":
        return constants.dropout_passes if run.software.hidden_dropout > 0 else 0.0
    if work.role == "permute":
        return constants.permute_passes
    passes = {
        "norm": constants.norm_passes,
        "rope": constants.rope_passes,
        "activation": constants.activation_passes,
    }[work.role]
    if run.software.ops != "eager":
        return passes
    return passes * (constants.eager_gated if run.model.norm == "rms" else constants.eager_plain)
