"""Records: published measurements in the format of published.yaml, and the run that each of them describes.

What a predictor may read of a record is its `Facts`: never its id, its source, its group, its cluster, its model's
name, its notes or what was measured. `run_of` turns facts into a run, field by field; what a run cannot say is refused
with the name of the field, never guessed. The words of the format and of a run differ in few places:

    vp                      stages_per_rank             zb_auto_1p, zb_auto_2p      zb-auto with its limit
    micro_batch, seq        micro_batch_size, sequence_length       etp             expert_tp
    stage_layout            split                       none, interleaved_1f1b      1f1b, interleaved
    mla.q_lora_rank ...     mla.q_rank ...              moe widths                  the same

What the format leaves open is settled by one rule for all records. A gated MLP comes with RMSNorm, rotary positions and
no biases (Llama); any other with LayerNorm, learned positions and biases (GPT-2). A fabric that nobody names is
InfiniBand without oversubscription, NICs and NVLink have the latencies of the bundled node with the same GPU.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from parsim.errors import SpecError
from parsim.spec import Run, catalogue, run_from_document

__all__ = ["DATA", "Facts", "Record", "facts_of", "read_records", "run_of"]

DATA = Path(__file__).parent / "published.yaml"

Record = Mapping[str, Any]
"""One published number with everything about it, as the file has it."""

_READ = ("kind", "gpu", "n_gpus", "network", "model", "layout", "precision", "software", "op_times_ms")
_SCHEDULES = {
    "none": "1f1b",
    "1f1b": "1f1b",
    "interleaved_1f1b": "interleaved",
    "zb_h1": "zb-h1",
    "zb_h2": "zb-h2",
    "zb_v": "zb-v",
    "zb_auto_1p": "zb-auto",
    "zb_auto_2p": "zb-auto",
    "dualpipe": "dualpipe",
}
_AUTOMATIC = ("zb_auto_1p", "zb_auto_2p")
_MLA = {
    "q_lora_rank": "q_rank",
    "kv_lora_rank": "kv_rank",
    "qk_head_dim": "nope_dim",
    "qk_rope_dim": "rope_dim",
    "v_head_dim": "value_dim",
}
_MODEL = ("layers", "hidden", "heads", "kv_heads", "head_dim", "tied_embeddings", "mtp_layers", "gated_mlp")
_MOE = ("experts", "topk", "expert_ffn", "shared_ffn", "dense_layers")
_LAYOUT = ("sequence_parallel", "zero", "zero_group", "fsdp", "reshard_after_forward", "ep", "cp_comm", "recompute")
_SOFTWARE = (
    "framework",
    "preset_version",
    "attention",
    "attention_dropout",
    "hidden_dropout",
    "ops",
    "params_dtype",
    "master_weights",
    "gradient_dtype",
    "fused_weight_gradient",
    "fused_moe_activation",
    "loss",
    "vocab_pad_multiple",
    "tp_overlap",
    "dp_overlap",
    "ep_overlap",
    "moe_dispatcher",
    "routing",
    "cuda_graphs",
    "deterministic_attention",
    "post_validation",
    "throttled",
    "fsdp_unit",
    "optimizer",
    "memory_reports",
    "memory_unit",
    "memory_rank",
)
_ABSENT = 1  # width of a part that a measured layer does not have


@dataclass(frozen=True)
class Facts:
    """What a predictor may read of a record, and nothing else."""

    kind: str
    gpu: str
    n_gpus: int
    precision: str
    model: Mapping[str, Any]
    layout: Mapping[str, Any]
    network: Mapping[str, Any]
    software: Mapping[str, Any]
    op_times_ms: Mapping[str, float] | None = None

    @property
    def whole_layer(self) -> bool:
        """False for a measured layer without its attention."""
        return self.kind != "layer" or self.software.get("attention") is not None

    @property
    def activation_limit(self) -> int | None:
        """Stage activations that an automatic zero-bubble schedule may hold; None for other schedules."""
        schedule, pp = self.layout.get("schedule"), self.layout.get("pp")
        if schedule not in _AUTOMATIC:
            return None
        stated = self.layout.get("activation_limit_stages")
        return int(stated) if stated is not None else int(pp or 1) * (2 if schedule == "zb_auto_2p" else 1)

    @property
    def step_share(self) -> float:
        """Tokens of the stated global batch over those that the micro-batches hold (1 but for rounding)."""
        layout = self.layout
        held = _stated(layout, "layout", "micro_batch") * _stated(layout, "layout", "dp") * _microbatches(layout)
        share: float = _stated(layout, "layout", "global_batch") / held
        return share


def read_records(path: Path) -> tuple[Record, ...]:
    """The records of a file. SpecError if it is no list of records with an id."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(document, list) or not all(isinstance(r, dict) and "id" in r for r in document):
        raise SpecError(f"{path}: a list of records, each with an id")
    names = [record["id"] for record in document]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SpecError(f"{path}: id {twice[0]} stands twice")
    return tuple(document)


def facts_of(record: Record) -> Facts:
    """What may be read of a record. SpecError if something a prediction needs is missing."""
    values = {name: record[name] for name in _READ if record.get(name) is not None}
    for name in ("model", "layout", "network", "software"):
        if not isinstance(values.get(name), Mapping):
            raise SpecError(f"{name}: a mapping of fields, see the format")
    values["model"] = {name: value for name, value in values["model"].items() if name not in ("name", "family")}
    try:
        return Facts(**values)
    except TypeError as error:
        raise SpecError(f"{str(error).partition(') ')[2]}") from None


def run_of(facts: Facts) -> Run:
    """The run that a record describes. Raises ParsimError of one line for what a run cannot say."""
    layout = _layout(facts)
    mesh = layout["mesh"]
    if (ranks := mesh["tp"] * mesh["cp"] * mesh["dp"] * mesh["pp"]) != facts.n_gpus:
        raise SpecError(f"n_gpus {facts.n_gpus}: tp * cp * dp * pp is {ranks}")
    batch = layout["micro_batch_size"] * mesh["dp"] * _microbatches(facts.layout)
    return run_from_document(
        {
            "model": _model(facts),
            "cluster": _cluster(facts),
            "layout": layout,
            "software": _software(facts),
            "batch": {
                "sequence_length": _stated(facts.model, "model", "seq"),
                "global_batch_size": batch,
            },
        }
    )


def _stated(room: Mapping[str, Any], name: str, field: str) -> Any:
    value = room.get(field)
    if value is None:
        raise SpecError(f"{name}.{field} is not stated")
    return value


def _known(room: Mapping[str, Any], name: str, *fields: Iterable[str]) -> None:
    """SpecError for a field that the format does not have: it could matter."""
    known = {field for part in fields for field in part}
    for field, value in room.items():
        if field not in known and value is not None:
            raise SpecError(f"{name}.{field}: the format has no such field")


def _microbatches(layout: Mapping[str, Any]) -> int:
    return int(_stated(layout, "layout", "n_microbatches"))


def _model(facts: Facts) -> dict[str, Any]:
    model = facts.model
    _known(model, "model", _MODEL, ("ffn", "vocab", "seq", "attention", "mla", "sliding_window", "moe", "pos"))
    layer = facts.kind == "layer"
    values = {name: model[name] for name in _MODEL if model.get(name) is not None}
    gated, sequence = _stated(model, "model", "gated_mlp"), _stated(model, "model", "seq")
    learned = model.get("pos", "rope" if gated else "learned") == "learned"
    values |= {
        "name": "published",
        "norm": "rms" if gated else "layer",
        "positions": "learned" if learned else "rope",
        "max_positions": sequence if learned else None,
        "attention_bias": not gated,
        "output_bias": not gated,
        "mlp_bias": not gated,
        # A layer measured alone has no head, and one with experts alone no dense MLP.
        "vocab": model.get("vocab") or (_ABSENT if layer else _stated(model, "model", "vocab")),
        "ffn": model.get("ffn") or (_ABSENT if layer and model.get("moe") else _stated(model, "model", "ffn")),
    }
    if (window := model.get("sliding_window")) is not None:
        values |= {"sliding_window": window, "sliding_window_every": 2}
    if (moe := model.get("moe")) is not None:
        _known(moe, "model.moe", _MOE)
        values["moe"] = dict(moe)
    attention = model.get("attention")
    if attention not in (None, "mla"):
        raise SpecError(f"model.attention {attention}: mla, or none stated")
    if attention == "mla":
        mla = _stated(model, "model", "mla")
        _known(mla, "model.mla", _MLA)
        values["mla"] = {_MLA[name]: value for name, value in mla.items()}
        values.pop("kv_heads", None)
        values.pop("head_dim", None)
    return values


def _layout(facts: Facts) -> dict[str, Any]:
    layout = facts.layout
    axes, mapped = ("tp", "cp", "dp", "pp"), ("etp", "micro_batch", "n_microbatches", "global_batch", "vp")
    further = ("schedule", "stage_layout", "activation_limit_stages", "offload")
    _known(layout, "layout", axes, mapped, further, _LAYOUT)
    mesh = {axis: _stated(layout, "layout", axis) for axis in axes}
    values = {name: layout[name] for name in _LAYOUT if layout.get(name) is not None}
    values |= {
        "mesh": mesh,
        "precision": facts.precision,
        "micro_batch_size": _stated(layout, "layout", "micro_batch"),
        "split": _stated(layout, "layout", "stage_layout"),
        "expert_tp": layout.get("etp") or 1,
    }
    if (mode := dict(_stated(layout, "layout", "recompute")).get("mode")) not in ("none", "full", "selective"):
        raise SpecError(f"layout.recompute.mode {mode}: none, full or selective")
    values["recompute"] = {name: value for name, value in layout["recompute"].items() if value is not None}
    if (offload := layout.get("offload")) is not None:
        word = "activation_layers" if isinstance(offload, int) else "modules"
        values["offload"] = dict(offload) if isinstance(offload, Mapping) else {word: offload}
    return values | _schedule(facts)


def _schedule(facts: Facts) -> dict[str, Any]:
    layout = facts.layout
    schedule, pp, stages = (_stated(layout, "layout", name) for name in ("schedule", "pp", "vp"))
    if schedule not in _SCHEDULES:
        raise SpecError(f"layout.schedule {schedule}: one of {', '.join(_SCHEDULES)}")
    if schedule == "none" and pp > 1:
        raise SpecError(f"layout.schedule none: pp is {pp}")
    values: dict[str, Any] = {"schedule": _SCHEDULES[schedule]}
    if facts.activation_limit is not None:
        values["activation_limit_stages"] = facts.activation_limit
    if schedule != "dualpipe":  # there two stages of mirrored chains share a rank, by definition
        values["stages_per_rank"] = stages
    return values


def _software(facts: Facts) -> dict[str, Any]:
    software = facts.software
    _known(software, "software", _SOFTWARE)
    # None says "there is none" of these two; of any other field that it was not stated.
    none = ("master_weights", "vocab_pad_multiple")
    return {name: value for name, value in software.items() if value is not None or name in none}


def _cluster(facts: Facts) -> dict[str, Any]:
    """Equal nodes of the stated GPUs and NICs on a fabric that does not block; as many as the mesh asks for."""
    network = facts.network
    _known(network, "network", ("nic_gbps_per_gpu", "nics_per_node", "nvlink_domain", "gpus_per_node", "fabric"))
    gpus, domain, gbps = (
        _stated(network, "network", name) for name in ("gpus_per_node", "nvlink_domain", "nic_gbps_per_gpu")
    )
    nics = network.get("nics_per_node") or gpus
    fabric = network.get("fabric") or "unknown"
    stated = {"grade": "assumed", "source": "stated by the publication"}
    unknown = {"grade": "assumed", "source": "no publication names the fabric"}
    return {
        "name": "published",
        "node": {
            "name": "published",
            "gpu": facts.gpu,
            "gpus": gpus,
            "nvlink_domain": domain,
            "nics": nics,
            "nic_bytes_per_s": gbps * 1e9 / 8 * gpus / nics,
            **_others(facts.gpu),
            "evidence": {"all": stated},
        },
        "fabric": {
            "kind": "ib" if fabric == "unknown" else fabric,
            "topology": "rail_optimised",
            "rails": nics,
            "evidence": {"kind": unknown if fabric == "unknown" else stated},
        },
    }


@cache
def _others(gpu: str) -> dict[str, Any]:
    """Latencies and host memory of the first bundled node that has the GPU."""
    fields = ("nic_latency_s", "nvlink_latency_s", "host_memory_bytes", "host_memory_bytes_per_s")
    for name in catalogue.names("nodes"):
        node = catalogue.document("nodes", name)
        if node["gpu"] == gpu:
            return {field: node[field] for field in fields if field in node}
    raise SpecError(f"gpu {gpu}: no bundled node has it; {catalogue.unknown('gpus', gpu)}")
