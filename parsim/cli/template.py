"""`parsim init` and `parsim check`: a commented run file to start from, and what is wrong with one."""

import json
import re
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from parsim.cli.output import STDOUT
from parsim.cli.schedule import read_plan
from parsim.errors import LayoutError, ParsimError, SpecError
from parsim.files import check_writable, write_all

if TYPE_CHECKING:
    from parsim.spec import ModelSpec
    from parsim.spec.node import NodeSpec

__all__ = ["check_command", "init_command"]

_BYTES_PER_PARAMETER = 18  # mixed-precision Adam with fp32 gradients, before ZeRO
_SHARE_FOR_STATES = 0.6  # leaves room for activations
_EXPERT_DEGREES = (1, 2, 4, 8, 16, 32, 64)
_MICROBATCHES_PER_RANK = 4  # micro-batches for each pipeline rank: a bubble of about a fifth

_TEMPLATE = """\
# A run: one model on one cluster in one layout. `parsim check {path}`, then `parsim simulate {path}`.
model: {model}               # `parsim list models`, a path to a Hugging Face config.json, or the fields themselves
cluster: {{name: {cluster}, nodes: {nodes}}}    # `parsim list clusters`
layout:
  mesh: {{tp: {tp}, cp: 1, dp: {dp}, pp: {pp}}}   # ranks in this order, tp innermost; the product is the number of GPUs
  schedule: 1f1b             # `parsim list schedules`
  # stages_per_rank: 2       # for interleaved, looped-bfs, interleaved-zb
  split: {split}{pad}# layers of the parts: even, ends_one_fewer, balanced, or a list such as [10, 11, 11, 10]
  micro_batch_size: 1        # sequences
  zero: 1                    # 0 none, 1 optimizer states, 3 (with fsdp: true) everything
  sequence_parallel: {sp}    # norms and dropout cut over tp as well{experts}
  recompute: {recompute}            # none, selective (attention core), full
  precision: bf16
batch: {{sequence_length: {sequence}, global_batch_size: {batch}}}
# software: {{attention: cudnn, gradient_dtype: fp32, dp_overlap: true}}   # defaults are reported as assumed
# seed: 0                    # of jitter
"""


def init_command(model: str, cluster: str, gpus: int, out: Path, force: bool) -> None:
    """Write a template that `check` accepts, with the smallest model-parallel layout whose states fit.

    Layers are recomputed where their activations would not fit beside them.
    """
    from parsim.memory import memory_of, summary_of
    from parsim.model.weights import parameters
    from parsim.run_plan import plan_of
    from parsim.spec import load_cluster, load_model
    from parsim.spec.load import run_from_document
    from parsim.spec.yaml_reader import parse_yaml

    if out != STDOUT:
        check_writable([out])
        if out.exists() and not force:
            raise SpecError(f"{out} exists; give --force to overwrite it, or another --out")
    spec, node = load_model(model), load_cluster(cluster).node
    if gpus < 1 or gpus % node.gpus:
        near = sorted({max(gpus // node.gpus, 1) * node.gpus, (max(gpus, 0) // node.gpus + 1) * node.gpus})
        raise LayoutError(f"gpus {gpus}: {cluster} has {node.gpus} in a node; {' or '.join(map(str, near))} would do")
    candidates = list(_layouts(spec, node, gpus))
    if not candidates:
        room = node.gpu.memory_bytes * _SHARE_FOR_STATES
        least = -(-parameters(spec) * _BYTES_PER_PARAMETER // int(room))
        raise LayoutError(
            f"gpus {gpus}: the states of {model} need about {least} GPUs of {node.gpu.name} in a layout that divides "
            f"its {spec.heads} heads{'' if spec.moe is None else f', {spec.moe.experts} experts'} and {spec.layers} "
            f"layers (or {spec.layers + 2} with both ends); more GPUs or another cluster would do"
        )
    _, _, tp, pp, ep = min(candidates)
    dp, split = gpus // (tp * pp), _split(spec, pp) or ""
    values: dict[str, Any] = dict(
        path="run.yaml" if out == STDOUT else out,
        model=_plain(model),
        cluster=cluster,
        nodes=gpus // node.gpus,
        tp=tp,
        dp=dp,
        pp=pp,
        split=split,
        pad=" " * (20 - len(split)),
        sp=str(tp > 1).lower(),
        sequence=min(spec.max_positions or 4096, 4096),
        experts="" if ep == 1 else f"\n  ep: {ep:<22} # experts are cut over so many of the ranks of dp, cp and tp",
        batch=dp * pp * _MICROBATCHES_PER_RANK,
    )
    for recompute in ("none", "full"):
        text = _TEMPLATE.format(recompute=recompute, **values)
        run = run_from_document(cast("dict[str, Any]", parse_yaml(text, str(out))), out.parent, where=str(out))
        if summary_of(run, memory_of(run, plan_of(run))).fits:
            break
    if out == STDOUT:
        sys.stdout.write(text)
        return
    write_all({out: text})
    print(f"wrote {out}")


def _plain(text: str) -> str:
    """As YAML reads it back: in quotes if it is more than a plain name or path."""
    return text if re.fullmatch(r"[A-Za-z0-9_./][A-Za-z0-9_./-]*", text) else json.dumps(text)


def _layouts(spec: "ModelSpec", node: "NodeSpec", gpus: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(ranks of one model, how much is preferred less, tp, pp, ep) of the layouts in which the states fit."""
    from parsim.model.weights import model_weights, parameters_of_rank

    dense, experts = parameters_of_rank(model_weights(spec))
    room = node.gpu.memory_bytes * _SHARE_FOR_STATES
    for tp, pp in product((1, 2, 4, 8), range(1, spec.layers + 1)):
        if tp > node.nvlink_domain or spec.heads % tp or spec.kv_heads % tp or gpus % (tp * pp):
            continue
        if _split(spec, pp) is None:
            continue
        for ep in (1,) if spec.moe is None else _EXPERT_DEGREES:
            if spec.moe is not None and (spec.moe.experts % ep or gpus // pp % ep):
                continue
            if _BYTES_PER_PARAMETER * (dense / tp + experts / ep) / pp <= room:
                yield pp * max(tp, ep), -tp if spec.moe is None else tp, tp, pp, ep


def _split(spec: "ModelSpec", pp: int) -> str | None:
    """How a model's layers are cut into pp parts of equal work, the embedding and the loss counting as a layer each
    if need be; None if they are not. Those of models with experts, often 61 or 94, also into nearly equal ones.
    """
    if spec.layers % pp == 0:
        return "even"
    if (spec.layers + 2) % pp == 0:
        return "ends_one_fewer"
    return None if spec.moe is None else "balanced"


def check_command(target: str | None, schema: bool) -> None:
    """Say that a run or a plan is sound, or what is wrong with it."""
    from parsim.run_plan import plan_of
    from parsim.spec import Run, Search, load_run
    from parsim.spec.split import layers_of_parts

    if schema:
        print(json.dumps((Search if target == "search" else Run).model_json_schema(), indent=1))
        return
    if target is None:
        raise SpecError("name a run (YAML or bundled) or a plan (CSV or JSON), or give --schema")
    path = Path(target)
    if path.suffix in (".csv", ".json"):
        plan = read_plan(path)
        placement = plan.placement
        print(
            f"{target}: sound; {placement.ranks} pipeline ranks, {placement.stages} stages, "
            f"{plan.microbatches} micro-batches, {sum(map(len, plan.orders))} slots"
        )
        return
    if _is_search(target):
        _check_search(target)
        return
    run = load_run(target)
    plan = plan_of(run)
    layers_of_parts(run.layout.split, run.model.layers, plan.placement.parts)
    print(f"{target}: sound; {run.model.name} on {run.ranks} ranks, {plan.name} of {plan.microbatches} micro-batches")
    try:
        from parsim.cost.priceable import check_priceable

        check_priceable(run)
    except ParsimError as error:
        print(f"it cannot be simulated yet: {error}")
    if run.assumed:
        print(f"{len(run.assumed)} defaults that the run does not state: {', '.join(run.assumed)}")


def _is_search(target: str) -> bool:
    """Whether a name or a file is a search: a file that names a space and no layout."""
    from parsim.spec import catalogue
    from parsim.spec.yaml_reader import read_document

    path = Path(target)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        document = read_document(path, "run")
        return "layout" not in document and bool({"space", "objective", "round_batch"} & set(document))
    return target in catalogue.names("searches") and target not in catalogue.names("runs")


def _check_search(target: str) -> None:
    """Say that a search is sound and how large its space is."""
    from parsim.search.planner import check_search
    from parsim.search.space import size_of
    from parsim.spec import load_search

    search = load_search(target)
    check_search(search)
    gpus = ", ".join(f"{nodes * search.cluster.node.gpus:,}" for nodes in search.sizes)
    print(f"{target}: sound; {search.model.name} on {gpus} GPUs, {size_of(search):,} layouts")
