"""Remedies: the cheapest changes to a run's layout that make it fit, each with what it costs in step time.

A change is one field or the few that go together (twice the tensor parallelism, half the replicas), spelled as `--set`
takes it. Each is applied to the run, checked, and its memory counted; those that fit are priced by the roofline on
their own plans and the fastest ones told. Where too few single changes do, two of different kinds are tried together.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from parsim.cost import RooflineCost
from parsim.errors import ParsimError
from parsim.memory import MemorySummary, memory_of, summary_of
from parsim.run_plan import plan_of
from parsim.sim import compile_plan, play, prices
from parsim.sim.period import lasting
from parsim.spec import Run
from parsim.spec.overrides import overridden

__all__ = ["Remedy", "remedies_of", "step_seconds"]

_LESS_IN_FLIGHT = ("1f1b", "zb-h1", "zb-v")  # schedules that hold no more than pp activations of a stage
_MODULES = ("layernorm", "act", "moe_act", "mla_up_proj", "mlp", "moe")


@dataclass(frozen=True)
class Remedy:
    """Changes that make a run fit: `settings` as --set takes them, the step's time and the worst rank's peak then."""

    settings: tuple[str, ...]
    step_time_s: float
    peak_memory_bytes: float
    margin_bytes: float

    def document(self, step_time_s: float) -> dict[str, Any]:
        """As JSON, beside the time of the step that does not fit."""
        return {
            "set": list(self.settings),
            "step_time_s": self.step_time_s,
            "slower_s": self.step_time_s - step_time_s,
            "slower": self.step_time_s / step_time_s - 1,
            "peak_memory_bytes": self.peak_memory_bytes,
            "memory_margin_bytes": self.margin_bytes,
        }


@dataclass(frozen=True)
class _Change:
    """A change of some kind; two of one kind exclude each other."""

    kind: str
    settings: tuple[str, ...]


def step_seconds(run: Run) -> float:
    """How long a step of a run takes, by the roofline on its own plan. LayoutError if it cannot be priced."""
    plan = plan_of(run)
    cost, program = RooflineCost(run, plan.placement), compile_plan(plan)
    return lasting(play(program, prices(program, cost)), not run.software.post_validation) * cost.straggler


def remedies_of(run: Run, most: int = 3, seconds: Callable[[Run], float] = step_seconds) -> tuple[Remedy, ...]:
    """The `most` fastest of the nearby runs that fit, one of a kind; fewer, or none, if no one or two changes help."""
    changes = tuple(_changes(run))
    fitting = list(_fitting(run, [(change,) for change in changes]))
    alone = {change.kind for group, _ in fitting for change in group}
    if len(alone) < most:
        left = [change for change in changes if change.kind not in alone]
        pairs = [pair for pair in combinations(left, 2) if pair[0].kind != pair[1].kind]
        fitting += _fitting(run, pairs)
    fastest: dict[tuple[str, ...], Remedy] = {}
    for group, (changed, memory) in fitting:
        try:
            time_s = seconds(changed)
        except ParsimError:
            continue  # fits, and nobody knows how fast it is
        kinds = tuple(change.kind for change in group)
        if kinds not in fastest or time_s < fastest[kinds].step_time_s:
            settings = tuple(setting for change in group for setting in change.settings)
            fastest[kinds] = Remedy(settings, time_s, memory.allocated, memory.margin)
    return tuple(sorted(fastest.values(), key=lambda remedy: (remedy.step_time_s, len(remedy.settings)))[:most])


def _fitting(
    run: Run, groups: Sequence[tuple[_Change, ...]]
) -> Iterator[tuple[tuple[_Change, ...], tuple[Run, MemorySummary]]]:
    for group in groups:
        changed = _changed(run, [setting for change in group for setting in change.settings])
        if changed is not None and changed[1].fits and changed[1].fits_on_host:
            yield group, changed


def _changed(run: Run, settings: Sequence[str]) -> tuple[Run, MemorySummary] | None:
    """The run with these settings, and its memory; None for one that cannot be."""
    try:
        changed = Run.model_validate(overridden(run.document(), settings))
        memory = memory_of(changed, plan_of(changed))
    except ParsimError:
        return None
    return changed, summary_of(changed, memory)


def _changes(run: Run) -> Iterator[_Change]:
    """Every change of one kind that could take memory off a rank."""
    layout = run.layout
    yield from _recomputations(run)
    if layout.mesh.tp > 1 and not layout.sequence_parallel:
        yield _change("sequence_parallel", sequence_parallel="true")
    if layout.mesh.dp * layout.mesh.cp > 1:
        for stage in range(layout.zero_stage + 1, 4):
            yield _change("zero", zero=str(stage), fsdp=str(stage == 3).lower())
    for size in range(layout.micro_batch_size - 1, 0, -1):
        if layout.micro_batch_size % size == 0:
            yield _change("micro_batch_size", micro_batch_size=str(size))
    yield from _meshes(run)
    for schedule in _LESS_IN_FLIGHT:
        if layout.mesh.pp > 1 and schedule != layout.schedule:
            yield _change("schedule", schedule=schedule, stages_per_rank="null", group_size="null", split="balanced")
    if layout.offload is None:
        yield _change("offload", offload="{activations: true}")
        yield _change("offload", offload="{optimizer: true}")


def _recomputations(run: Run) -> Iterator[_Change]:
    """More recomputation than now: of modules, of the fewest layers that make it fit, of all."""
    recompute = run.layout.recompute
    if recompute.mode == "full" and recompute.layers is None:
        return
    if recompute.mode != "full":
        cheap = ("core_attn",) if run.software.attention == "unfused" else ()
        for modules in (cheap, (*cheap, *_MODULES[:3]), (*cheap, *_MODULES[:4]), (*cheap, *_MODULES)):
            if set(modules) - set(recompute.modules):
                yield _change("recompute", recompute=f"{{mode: selective, modules: [{', '.join(modules)}]}}")
    if (layers := _fewest_layers(run)) is not None:
        yield _recomputed_layers(layers)
    yield _change("recompute", recompute="full")


def _fewest_layers(run: Run) -> int | None:
    """The fewest layers of a rank that are enough if recomputed in full; None if all of them are not."""
    low, high = run.layout.recompute.layers or 0, run.model.layers

    def fits(layers: int) -> bool:
        changed = _changed(run, _recomputed_layers(layers).settings)
        return changed is not None and changed[1].fits

    if not fits(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _recomputed_layers(layers: int) -> _Change:
    return _change("recompute", recompute=f"{{mode: full, method: block, layers: {layers}}}")


def _meshes(run: Run) -> Iterator[_Change]:
    """Half the replicas, twice the ranks that share a model; more ranks for the experts."""
    mesh = run.layout.mesh
    if mesh.dp % 2 == 0:
        half = {"mesh.dp": str(mesh.dp // 2)}
        sequence = {"sequence_parallel": "true"}
        yield _change("mesh", **half, **sequence, **{"mesh.tp": str(2 * mesh.tp)})
        yield _change("mesh", **half, **{"mesh.pp": str(2 * mesh.pp)}, split="balanced")
        yield _change("mesh", **half, **{"mesh.cp": str(2 * mesh.cp)})
    if run.model.moe is not None:
        yield _change("ep", ep=str(2 * run.layout.ep))


def _change(kind: str, **fields: str) -> _Change:
    return _Change(kind, tuple(f"layout.{name}={value}" for name, value in fields.items()))
