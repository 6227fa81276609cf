"""Terms: what can be left out of the step-time model to see what it is worth. Each is a setting of constants or rates.

A term is left out by making its work free: passes and seconds become 0, rates practically infinite. What the others
can make up for it is refitted; the worth of a term is the error that remains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch

import numpy as np
from fitting import NOTHING, Without
from parameters import Parameter, Setting

from parsim.network.estimate import estimate
from parsim.network.reach import Reach
from parsim.spec import RecomputeSpec, Run

__all__ = ["TERMS", "Term"]

_FREE = 1e6
_FEW_BYTES = 8.0


@dataclass(frozen=True)
class Term:
    """`factors` by patterns of parameter names, and what no factor leaves out. `alike`: parameters of this pattern take
    their mean, and are refitted as one."""

    factors: Mapping[str, float] = field(default_factory=dict)
    without: Without = NOTHING
    alike: str = ""

    def setting(self, start: Setting, known: Sequence[Parameter]) -> Setting:
        """The start without the term."""
        factors = dict(start.factors)
        for parameter in known:
            for pattern, factor in self.factors.items():
                if fnmatch(parameter.name, pattern):
                    factors[parameter.name] = factor
        if same := [known[place] for place in self.places(known)]:
            values = [p.value * start.factors.get(p.name, 1.0) for p in same]
            factors |= {p.name: float(np.mean(values)) / p.value for p in same}
        return Setting(factors)

    def places(self, known: Sequence[Parameter]) -> list[int]:
        """The places of the parameters that are made alike."""
        return [i for i, p in enumerate(known) if self.alike and fnmatch(p.name, self.alike)]

    def refitted(self, known: Sequence[Parameter]) -> list[int]:
        """The places of the parameters that may make up for the term."""
        patterns = [*self.factors, self.alike]
        return [i for i, p in enumerate(known) if not any(fnmatch(p.name, pattern) for pattern in patterns)]


@dataclass(frozen=True)
class _Free:
    """Collectives that take nothing: those inside a domain, or those between domains."""

    inside: bool

    def corrected(self, kind: str, size_bytes: float, reach: Reach, estimated_s: float) -> float | None:
        return 0.0 if _is_nccl(kind) and (reach.domains == 1) == self.inside else None


@dataclass(frozen=True)
class _WithoutLatency:
    """Collectives less what the same with eight bytes would take."""

    def corrected(self, kind: str, size_bytes: float, reach: Reach, estimated_s: float) -> float | None:
        return max(estimated_s - estimate(kind, _FEW_BYTES, reach).seconds, 0.0) if _is_nccl(kind) else None


def _is_nccl(kind: str) -> bool:
    return kind not in ("send", "all_to_all")


def _recomputes_nothing(run: Run) -> Run:
    return run.model_copy(update={"layout": run.layout.model_copy(update={"recompute": RecomputeSpec()})})


def _constants(factor: float, *names: str) -> dict[str, float]:
    return {f"constants.{name}": factor for name in names}


TERMS: Mapping[str, Term] = {
    "recompute": Term(without=Without(change=_recomputes_nothing)),
    "pipeline bubble": Term(without=Without(busiest=True)),
    "attention core": Term(
        {
            "*.attention.*": _FREE,
            **_constants(_FREE, "unfused_rate"),
            **_constants(0, "unfused_*_passes", "sinks_*_passes"),
        }
    ),
    "size dependence of matmuls": Term({**_constants(0, "wave_weight", "matmul_bytes"), "gpus.launch_s": 0}),
    "waves and padding of matmuls": Term(_constants(0, "wave_weight")),
    "one matmul efficiency for all GPU types": Term(alike="*.matmul.*"),
    "casts to fp8 and fp4": Term(_constants(0, "cast_passes")),
    "elementwise work": Term(_constants(0, "norm_passes", "rope_passes", "activation_passes", "dropout_passes")),
    "loss and embedding": Term(_constants(0, "loss_bytes_per_logit", "embedding_bytes")),
    "collectives inside NVLink domains": Term(without=Without(correction=_Free(inside=True))),
    "collectives between domains": Term(without=Without(correction=_Free(inside=False))),
    "latency of collectives": Term(without=Without(correction=_WithoutLatency())),
    "overlap: pure maximum": Term(_constants(0, "fsdp_contention", "dp_contention", "tp_overlapped", "cp_contention")),
    "exchanges of experts and context": Term(
        {**_constants(_FREE, "exchange_nvlink", "exchange_nic"), **_constants(0, "exchange_s")}
    ),
    "messages between stages": Term(
        {**_constants(_FREE, "message_nvlink", "message_nic"), **_constants(0, "message_s")}
    ),
    "optimizer and end of the step": Term(_constants(0, "optimizer_overhead", "step_s")),
    "host's launches": Term(_constants(0, "host_layer_s", "host_moe_layer_s", "microbatch_s")),
    "stragglers": Term(_constants(0, "straggler")),
}
