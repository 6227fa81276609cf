"""Job: everything the ranks need to know before they start, proved playable: the run, its plan, and what to measure.

A job is plain data without torch, so that it is checked before any process exists and travels to each of them.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

from executor.fault import Fault
from parsim.cost.unit import UnitCost
from parsim.errors import ScheduleError, SpecError
from parsim.plan import Kind, Plan, add_p2p, check, plan_document
from parsim.run_plan import plan_of
from parsim.spec import Rule, Run, check_rules

__all__ = ["PLAYED", "RULES", "Device", "Job", "job_of", "labels_of", "messages_of"]

Device = Literal["cpu", "cuda"]

PLAYED = frozenset(
    {Kind.F, Kind.B, Kind.I, Kind.W, Kind.SEND_F, Kind.RECV_F, Kind.SEND_B, Kind.RECV_B, Kind.REDUCE_GRAD, Kind.STEP}
)
"""The kinds of ops that ranks can play so far."""

_PRECISIONS = ("fp64", "fp32", "tf32", "bf16")

RULES: tuple[Rule, ...] = (
    Rule("model.moe", lambda run: run.model.moe is not None, "a dense model"),
    Rule("model.mla", lambda run: run.model.mla is not None, "a model with plain or grouped-query attention"),
    Rule("model.mtp_layers", lambda run: run.model.mtp_layers > 0, "0"),
    Rule("layout.mesh.tp", lambda run: run.layout.mesh.tp > 1, "1"),
    Rule("layout.mesh.cp", lambda run: run.layout.mesh.cp > 1, "1"),
    Rule("layout.zero", lambda run: run.layout.zero > 1, "0 or 1"),
    Rule("layout.fsdp", lambda run: run.layout.fsdp, "false with zero: 1"),
    Rule("layout.zero_group", lambda run: run.layout.zero_group not in (None, run.layout.mesh.dp), "none"),
    Rule("layout.offload", lambda run: run.layout.offload is not None, "none"),
    Rule("layout.precision", lambda run: run.layout.precision not in _PRECISIONS, ", ".join(_PRECISIONS)),
    Rule("layout.recompute.modules", lambda run: bool(set(run.layout.recompute.modules) - {"core_attn"}), "core_attn"),
    Rule(
        "layout.recompute.layers",
        lambda run: run.layout.recompute.mode == "selective" and run.layout.recompute.layers is not None,
        "mode full, or no layers with mode selective",
    ),
    Rule("layout.recompute.method", lambda run: run.layout.recompute.method == "uniform", "block"),
    Rule("software.attention_dropout", lambda run: run.software.attention_dropout > 0, "0"),
    Rule("software.hidden_dropout", lambda run: run.software.hidden_dropout > 0, "0"),
    Rule("software.optimizer", lambda run: run.software.optimizer != "adam", "adam"),
)
"""What ranks cannot play yet: other axes than pp and dp, more sharding than ZeRO-1, dropout (it would differ between
layouts), fp16 and fp8 (they scale the loss)."""


@dataclass(frozen=True)
class Job:
    """A run and the plan it plays, messages spelled out.

    `warmup` steps are played and thrown away, `steps` recorded. With `times` compute ops are sleeps of these seconds
    and every message is real. `keep_gradients` returns the gradients of the first step; `count_memory` plays one more
    step, under a count of tensors on the CPU.
    """

    run: Run
    plan: Plan
    steps: int = 5
    warmup: int = 2
    device: Device = "cpu"
    times: UnitCost | None = None
    faults: tuple[Fault, ...] = ()
    keep_gradients: bool = False
    count_memory: bool = False
    channels: bool | None = None
    """A process group for each direction between two ranks, as NCCL needs; None: with NCCL only."""
    learning_rate: float = 1e-3

    @property
    def ranks(self) -> int:
        """Processes of the job."""
        return self.run.layout.mesh.size

    @property
    def message_shape(self) -> tuple[int, int, int]:
        """Shape of every message: micro-batch, sequence, hidden."""
        return (
            self.run.layout.micro_batch_size,
            self.run.batch.sequence_length,
            self.run.model.hidden,
        )

    def digest(self) -> str:
        """A short name of what every rank must agree on; ranks that were started with another one are refused."""
        said = repr((self.run.document(), plan_document(self.plan), self.steps, self.warmup, self.device, self.times))
        return hashlib.sha256(said.encode()).hexdigest()[:16]


def job_of(run: Run, plan: Plan | None = None, planned_by: UnitCost | None = None, **options: object) -> Job:
    """The job that plays `run`, or `plan` in place of the run's schedule; `options` are Job's other fields. An
    automatic schedule is made for the times of `planned_by`, if they are given, not for the roofline's.

    Raises LayoutError for a run that cannot be played yet, ScheduleError (also DeadlockError) for a plan that is not
    sound, has ops that cannot be played, or does not fit the run, SpecError for impossible options. A job with `times`
    computes nothing: of its run only the shape of messages and the mesh matter.
    """
    if plan is not None:
        _check_kinds(plan)
    full = plan_of(run, plan, None if planned_by is None else lambda placement: planned_by)
    job = replace(Job(run, full), **options)  # type: ignore[arg-type]
    check_rules(run, RULES if job.times is None else _rules_of_emulation(), "the executor cannot play this yet")
    if run.layout.ep * run.layout.expert_tp > 1:
        raise SpecError("layout.ep: the executor cannot play this yet; 1 would do")
    if job.times is not None:
        job.times.check(full.placement.stages)
    for name, least in (("steps", 1), ("warmup", 0)):
        if getattr(job, name) < least:
            raise SpecError(f"{name} {getattr(job, name)}: at least {least}")
    full = messages_of(full)
    for fault in job.faults:
        fault.check(full, run.layout.mesh, job.warmup + job.steps)
    run.layers_of_parts(full.placement.parts)
    return replace(job, plan=full)


def messages_of(plan: Plan) -> Plan:
    """The plan with its messages spelled out, proved sound: what the ranks really play."""
    full = add_p2p(plan)
    check(full)
    return full


def labels_of(job: Job) -> tuple[tuple[str, ...], ...]:
    """How each slot of each pipeline rank prints: a fault names what its rank was playing."""
    return tuple(tuple(map(str, order)) for order in job.plan.orders)


def _rules_of_emulation() -> tuple[Rule, ...]:
    return tuple(rule for rule in RULES if rule.field in ("layout.mesh.tp", "layout.mesh.cp"))


def _check_kinds(plan: Plan) -> None:
    for rank, op in plan.ops():
        if op.kind not in PLAYED:
            known = ", ".join(kind for kind in Kind if kind in PLAYED)
            raise ScheduleError(f"rank {rank} plays {op}: the executor cannot play {op.kind} yet; it knows {known}")
