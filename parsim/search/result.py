"""SearchResult: what a search found, and the document that `parsim search --json` prints of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from parsim.explanation.budget import TokenBudget, budget_of
from parsim.model.flops import model_flops
from parsim.model.weights import active_parameters
from parsim.search.branch import Branches, Entry
from parsim.search.finalists import Contended, run_of_entry, switches_of
from parsim.search.reasons import choices, rejected
from parsim.search.robust import Robust, robust
from parsim.search.scope import Scope
from parsim.search.space import size_of
from parsim.search.survey import limit_of
from parsim.simulation import simulate
from parsim.spec import Run
from parsim.step_result import StepResult

__all__ = ["SearchResult"]

SCHEMA_VERSION = "1.0"


@dataclass(frozen=True)
class SearchResult:
    """What was found on each size of cluster, in ascending order of nodes; `info` are times of the command itself."""

    scope: Scope
    sizes: tuple[Branches, ...]
    contended: tuple[Contended | None, ...]
    info: Mapping[str, Any]
    jitter: float = 0.0
    _simulated: dict[Run, StepResult] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def space(self) -> int:
        """Layouts of the space, over all sizes of cluster."""
        return sum(size.layouts for size in self.sizes) if self.certified else size_of(self.scope)

    @property
    def feasible(self) -> int:
        return sum(size.feasible for size in self.sizes)

    @property
    def played(self) -> int:
        """Cost vectors whose plan was played."""
        return sum(size.played for size in self.sizes)

    @cached_property
    def chosen(self) -> int | None:
        """The size that the objective prefers; None where no size has a layout that fits."""
        found = [(self.score(number), number) for number, size in enumerate(self.sizes) if size.top]
        return min(found)[1] if found else None

    def score(self, number: int) -> tuple[float, ...]:
        """What the objective makes of a size's best layout: the less the better."""
        size, scope = self.sizes[number], self.scope
        step, gpus = size.top[0].step_s, size.nodes * scope.cluster.node.gpus
        objective = scope.objective[0]
        if objective == "step_time":
            return (step,)
        if objective in ("tokens_per_dollar", "energy"):
            return (step * gpus, step)  # both are GPU seconds a token, at a constant price and power
        budget = self.budget(size.top[0])
        assert budget is not None
        late = budget.days > (scope.deadline_days or 0.0)
        return (float(late), budget.days if late else float(gpus), step)

    @property
    def best(self) -> Entry | None:
        """The layout that the objective prefers."""
        return None if self.chosen is None else self.sizes[self.chosen].top[0]

    @property
    def top(self) -> list[Entry]:
        """The best layouts on the chosen size."""
        return [] if self.chosen is None else self.sizes[self.chosen].top

    @cached_property
    def robust(self) -> tuple[Robust, ...]:
        """The list by the p95 of its steps with jitter; empty without."""
        return robust(self.scope, self.top, self.jitter) if self.jitter else ()

    @property
    def bound_s(self) -> float | None:
        """No layout of the chosen size that is not in the list takes less; None where there is none."""
        number = self.chosen if self.chosen is not None else 0
        bound = self.sizes[number].bound_s
        return None if bound == float("inf") else bound

    @property
    def certified(self) -> bool:
        """Whether the best layout is proven to be it."""
        return all(size.complete for size in self.sizes)

    @property
    def gap(self) -> float | None:
        """By what part of its step time the best layout may be slower than the best there is; None without a layout."""
        best = self.best
        if best is None:
            return None
        return 0.0 if self.certified else max(0.0, 1 - min(self.bound_s or 0.0, best.step_s) / best.step_s)

    def budget(self, entry: Entry) -> TokenBudget | None:
        """What the search's tokens take with a layout; None where it names none."""
        scope = self.scope
        if scope.tokens is None:
            return None
        tokens = scope.batch.global_batch_size * scope.batch.sequence_length
        return budget_of(
            tokens=scope.tokens,
            tokens_per_s=tokens / entry.step_s,
            tokens_per_step=tokens,
            gpus=entry.shape.mesh.gpus,
            flops_per_step=model_flops(scope.model, scope.batch.sequence_length, scope.batch.global_batch_size),
            active_parameters=active_parameters(scope.model),
            dollars_per_gpu_hour=scope.money.dollars_per_gpu_hour,
            watts_per_gpu=scope.money.watts_per_gpu,
        )

    # The document

    def document(self) -> dict[str, Any]:
        """As JSON. Everything but `run_info` is the same for the same search, whoever worked on it."""
        scope = self.scope
        contention = None if self.chosen is None else self.contended[self.chosen]
        return {
            "schema_version": SCHEMA_VERSION,
            "space": self.space,
            "removed": self._summed("removed"),
            "feasible": self.feasible,
            "vectors": sum(size.vectors for size in self.sizes),
            "played": self.played,
            "inexact": sum(size.inexact for size in self.sizes),
            "certified": self.certified,
            "gap": self.gap,
            "bound_s": self.bound_s,
            "objective": list(scope.objective),
            "definitions": DEFINITIONS,
            "best": None if self.best is None else self.entry(self.best, run=True),
            "top": [self.entry(entry, contention, number) for number, entry in enumerate(self.top)],
            "robust": [one.document() for one in self.robust],
            "contention": None if contention is None else _contention(contention),
            "sizes": [self._size(number) for number in range(len(self.sizes))],
            "pareto": [self.entry(entry) for entry in self.pareto],
            "rejected": [line.document() for line in rejected(scope, self.sizes)],
            "assumed": self.assumptions,
            "limit_bytes": limit_of(scope),
            "search": scope.document(),
            "run_info": dict(self.info),
        }

    def _summed(self, name: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for size in self.sizes:
            for rule, count in getattr(size, name).items():
                found[rule] = found.get(rule, 0) + count
        return dict(sorted(found.items()))

    def _size(self, number: int) -> dict[str, Any]:
        size = self.sizes[number]
        return {
            "nodes": size.nodes,
            "gpus": size.nodes * self.scope.cluster.node.gpus,
            "space": size.layouts,
            "feasible": size.feasible,
            "played": size.played,
            "certified": size.complete,
            "best": self.entry(size.top[0]) if size.top else None,
        }

    @property
    def pareto(self) -> list[Entry]:
        """Of all layouts in the lists those that no other beats in time, memory and GPUs at once."""
        every = [entry for size in self.sizes for entry in size.top]
        keys = [(e.step_s, e.found.peak_bytes, e.shape.mesh.gpus) for e in every]
        return [
            entry
            for entry, key in zip(every, keys, strict=True)
            if not any(other != key and all(a <= b for a, b in zip(other, key, strict=True)) for other in keys)
        ]

    def entry(
        self, entry: Entry, contention: Contended | None = None, number: int = 0, run: bool = False
    ) -> dict[str, Any]:
        """One layout."""
        scope = self.scope
        found, unsaid = run_of_entry(scope, entry)
        tokens = scope.batch.global_batch_size * scope.batch.sequence_length
        gpus = entry.shape.mesh.gpus
        document: dict[str, Any] = {
            "layout": found.layout.model_dump(mode="json"),
            "switches": _plain(switches_of(scope, entry)),
            "nodes": entry.shape.mesh.nodes,
            "gpus": gpus,
            "microbatches": entry.shape.microbatches,
            "sequences": entry.shape.mesh.sequences,
            "step_time_s": entry.step_s,
            "tokens_per_s": tokens / entry.step_s,
            "tokens_per_s_per_gpu": tokens / entry.step_s / gpus,
            "peak_memory_bytes": entry.found.peak_bytes,
            "layouts_alike": entry.found.layouts,
            "beyond_runs": list(unsaid),
        }
        if contention is not None and number < len(contention.step_s):
            document["contended_step_time_s"] = contention.step_s[number]
        budget = self.budget(entry)
        if budget is not None:
            document["budget"] = {
                "days": budget.days,
                "gpu_hours": budget.gpu_hours,
                "dollars": budget.dollars,
                "megawatt_hours": budget.megawatt_hours,
            }
        notes = list(choices(scope, entry))
        if notes:
            document["notes"] = notes
        if run:
            document["run"] = found.document()
            if not unsaid:
                document |= self._explained(found)
        return document

    def _explained(self, run: Run) -> dict[str, Any]:
        """What binds a layout: the seconds of each cause, and its slowest stage."""
        result = self.simulated(run)
        return {
            "waterfall": result.waterfall.document(),
            "slowest_stage": result.slowest_stage.text,
            "mfu": result.mfu,
            "peak_rank": max(result.memory, key=lambda rank: rank.peak_bytes).rank if result.memory else None,
        }

    def simulated(self, run: Run) -> StepResult:
        """A layout as `parsim simulate` plays it."""
        if run not in self._simulated:
            self._simulated[run] = simulate(run)
        return self._simulated[run]

    def plans(self, count: int) -> list[tuple[Entry, StepResult]]:
        """The first layouts of the list that a run can say, played."""
        found = [(entry, *run_of_entry(self.scope, entry)) for entry in self.top[:count]]
        return [(entry, self.simulated(run)) for entry, run, unsaid in found if not unsaid]

    @property
    def assumptions(self) -> list[str]:
        """What the numbers take for granted."""
        money = self.scope.money
        found = [f"{self.scope.reserve_bytes / 2**30:g} GiB of each GPU are left for context and communication buffers"]
        if self.scope.space.offload:
            found.append(
                f"offload of {', '.join(self.scope.space.offload)}: what moves is in the node's memory, and gathered "
                "inputs that are kept stay on the device; a layout that fits with its activations on the device is not "
                "listed with them on the host, which only delays it"
            )
        if self.scope.space.networks:
            found.append(
                "an axis put on NVLink has its ranks side by side in a domain, one put on the NICs only those that the "
                "axes on NVLink leave room for there"
            )
        if self.scope.tokens is not None:
            found.append(
                f"{money.dollars_per_gpu_hour:g} $ a GPU-hour and {money.watts_per_gpu:g} W a GPU all the time, with "
                "its share of host, network and cooling; no restarts, checkpoints or evaluation"
            )
        return found


DEFINITIONS = {
    "space": "combinations that the search allows, legal or not",
    "removed": "layouts by the first rule that removes them",
    "vectors": "distinct cost vectors among the feasible layouts of the shapes that were opened",
    "played": "cost vectors whose schedule was played (longest path)",
    "bound_s": "no layout that is not in the list takes less",
    "certified": "every layout that was not played has a lower bound above the last one of the list",
    "step_time_s": "seconds for the global batch, every flow alone on its links",
    "robust": "the list by p95: rank in it, what half and 95 % of 1,000 steps last with jitter on every rank's ops",
    "layouts_alike": "layouts of the same shape with the same cost vector: the first of them is shown",
    "beyond_runs": "switches priced by terms of the search, which no run file can say",
}


def _plain(switches: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.model_dump(mode="json") if hasattr(value, "model_dump") else value
        for name, value in switches.items()
    }


def _contention(found: Contended) -> dict[str, Any]:
    return {
        "played": sum(seconds is not None for seconds in found.step_s),
        "best": found.best,
        "certified": found.certified,
        "note": found.why or None,
    }
