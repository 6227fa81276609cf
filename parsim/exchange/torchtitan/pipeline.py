"""Pipeline schedules and the split of layers in torchtitan's settings, and back.

A schedule that torchtitan knows is named; whatever the plan, it is also written as PyTorch's CSV, which then is what
runs. Reading compares a CSV with the plans of parsim's schedules.
"""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from parsim.errors import ParsimError, SpecError
from parsim.exchange.comparable import stages_per_rank
from parsim.exchange.table import Entry, Fields, Say, Setting, Settings
from parsim.files import read_text
from parsim.plan import Plan, parse_csv
from parsim.schedules import build, get, names
from parsim.spec import Run

__all__ = ["CSV", "PIPELINE"]

_P = "parallelism."
_PP, _SCHEDULE = f"{_P}pipeline_parallel_degree", f"{_P}pipeline_parallel_schedule"
CSV = f"{_P}pipeline_parallel_schedule_csv"
_EACH, _PARTS = f"{_P}pipeline_parallel_layers_per_stage", f"{_P}module_fqns_per_model_part"
_POINTS = f"{_P}pipeline_parallel_split_points"
_FIRST, _LAST = f"{_P}pipeline_parallel_first_stage_less_layers", f"{_P}pipeline_parallel_last_stage_less_layers"
_NAMES = {
    "1f1b": "1F1B",
    "gpipe": "GPipe",
    "interleaved": "Interleaved1F1B",
    "looped-bfs": "LoopedBFS",
    "interleaved-zb": "InterleavedZeroBubble",
    "zb-v": "ZBVZeroBubble",
    "dualpipe-v": "DualPipeV",
}
_ONE_STAGE = ("1F1B", "GPipe")


def _write(run: Run, say: Say) -> Settings:
    layout, pp = run.layout, run.layout.mesh.pp
    if pp == 1:
        return {}
    stages = stages_per_rank(run)
    name = _NAMES.get(layout.schedule)
    if layout.schedule == "dualpipe":
        say("layout.schedule", "torchtitan's pipelines have one chain of stages, DualPipe has two: 1F1B is written")
        say("layout.stages_per_rank", "1F1B has one stage on a rank")
        name, stages = "1F1B", 1
    elif name is None:
        name = "1F1B" if stages == 1 else "Interleaved1F1B"
        say("layout.schedule", f"torchtitan has no name for {layout.schedule}: its CSV is what runs")
    elif name in _ONE_STAGE and stages != 1:
        raise SpecError(f"layout.stages_per_rank {stages}: {layout.schedule} has 1 in torchtitan")
    counts = run.layers_of_parts(pp * stages)
    found: dict[str, Any] = {_SCHEDULE: name}
    if len(set(counts)) == 1:
        return found | {_FIRST: 0, _LAST: 0, _EACH: counts[0]}
    if layout.split == "ends_one_fewer":
        return found | {_FIRST: 1, _LAST: 1, _EACH: (run.model.layers + 2) // len(counts)}
    return found | {_PARTS: _modules(counts)}


def _modules(counts: tuple[int, ...]) -> list[list[str]]:
    """The names of each part's modules."""
    parts, done = [], 0
    for count in counts:
        parts.append([f"layers.{layer}" for layer in range(done, done + count)])
        done += count
    parts[0].insert(0, "tok_embeddings")
    parts[-1] += ["norm", "lm_head"]
    return parts


def _read(settings: Settings, say: Say) -> Fields:
    pp = settings.get(_PP, 1)
    if pp == 1:
        return {}
    name = settings.get(_SCHEDULE, "1F1B")
    known = {theirs.lower(): ours for ours, theirs in _NAMES.items()}
    ours = known.get(name.lower())
    if ours is None and not settings.get(CSV):
        raise SpecError(f"{_SCHEDULE} {name}: one of {', '.join(_NAMES.values())}")
    single = name in _ONE_STAGE
    stages, split = _stages_and_split(settings, pp, 1 if single else 2, say)
    if single and stages != 1:
        raise SpecError(f"{_SCHEDULE} {name}: it has one stage on a rank, {_EACH} makes {stages}")
    if settings.get(CSV):
        ours = _recognised(settings[CSV], ours, pp, stages, say)
    fields: dict[str, Any] = {"layout.schedule": ours or "1f1b", **split}
    try:
        legal = get(ours or "1f1b").legal_stages
    except ParsimError:
        legal = range(1, 2)
    return fields | ({"layout.stages_per_rank": stages} if stages in legal else {})


def _stages_and_split(settings: Settings, pp: int, usual: int, say: Say) -> tuple[int, Fields]:
    if (parts := settings.get(_PARTS)) is not None:
        counts = [sum(str(name).startswith("layers.") for name in part) for part in parts]
        if len(counts) % pp:
            raise SpecError(f"{_PARTS} names {len(counts)} parts: they do not divide into pp {pp}")
        return len(counts) // pp, {"layout.split": counts}
    first, last, each = settings.get(_FIRST, 1), settings.get(_LAST, 1), settings.get(_EACH)
    layers = settings.get("model.layers")
    if layers is None:
        say("layout.split", "the model is not known, and so not how its layers are cut: even is assumed")
        return usual, {}
    if points := settings.get(_POINTS):
        counts = _between(points, layers)
        if len(counts) % pp:
            raise SpecError(f"{_POINTS} makes {len(counts)} parts: they do not divide into pp {pp}")
        return len(counts) // pp, {"layout.split": counts}
    whole = layers + first + last
    if each is not None:
        if each < 1 or -(-whole // each) % pp:
            raise SpecError(f"{_EACH} {each}: makes {-(-whole // max(each, 1))} stages, pp is {pp}")
        usual = -(-whole // each) // pp
    number = pp * usual
    counts = [whole // number + (stage < whole % number) for stage in range(number)]
    counts[0] -= first
    counts[-1] -= last
    if len(set(counts)) == 1:
        return usual, {"layout.split": "even"}
    if (first, last) == (1, 1) and whole % number == 0:
        return usual, {"layout.split": "ends_one_fewer"}
    return usual, {"layout.split": counts}


def _between(points: Any, layers: int) -> list[int]:
    """Layers of the parts that begin at the named layers, in the releases before 0.2."""
    names = points.split(",") if isinstance(points, str) else points if isinstance(points, list) else [points]
    matches = [re.fullmatch(r"layers\.(\d{1,6})", str(name).strip()) for name in names]
    starts = [0, *(int(match[1]) for match in matches if match), layers]
    if None in matches or starts != sorted(starts):
        raise SpecError(f"{_POINTS} {str(points)[:60]}: names of layers of {layers} in their order, as layers.8")
    return [end - start for start, end in pairwise(starts)]


def _recognised(path: str, named: str | None, pp: int, stages: int, say: Say) -> str | None:
    """The schedule whose plan a CSV holds; the named one where the file is not there, or is of its own."""
    try:
        plan = parse_csv(read_text(Path(path), "schedule"))
    except ParsimError as error:
        say(CSV, f"{error}: the schedule is taken by its name")
        return named
    # Of schedules with the same plan the named one, then one that usually has so many stages.
    for name in sorted(names(), key=lambda name: (name != named, get(name).default_stages != stages)):
        if _same(plan, name, pp, stages):
            return name
    say("layout.schedule", f"{path} is a plan of its own: `parsim simulate --plan` plays it")
    return named


def _same(plan: Plan, name: str, pp: int, stages: int) -> bool:
    if get(name).timed or stages not in get(name).legal_stages:
        return False
    try:
        return build(name, pp, plan.microbatches, stages).orders == plan.orders
    except ParsimError:
        return False


PIPELINE = Entry(
    ("layout.schedule", "layout.stages_per_rank", "layout.split"),
    (
        Setting(_SCHEDULE, "text"),
        Setting(CSV, "text"),
        *(Setting(name, "integer") for name in (_EACH, _FIRST, _LAST)),
        Setting(_PARTS, "lists"),
        Setting(_POINTS, "any"),
    ),
    _write,
    _read,
)
