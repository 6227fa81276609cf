"""Precision, compilation, dispatch and the seed in torchtitan's settings, and back."""

from dataclasses import replace
from typing import Any

from parsim.errors import SpecError
from parsim.exchange.table import Entry, Fields, Say, Setting, Settings, switch, worded
from parsim.exchange.torchtitan.layout import flavor_of
from parsim.spec import Run

__all__ = ["SOFTWARE"]

_STORED = {"fp32": "float32", "bf16": "bfloat16"}
_CONVERTERS = {"fp8-rowwise": "float8", "mxfp8": "mxfp8", "nvfp4": "nvfp4"}
_PARAM, _REDUCE, _STORED_AS = "training.mixed_precision_param", "training.mixed_precision_reduce", "training.dtype"
_CONVERTER, _RECIPE = "model.converters", "quantize.recipe_name"
_COMPILE, _COMPONENTS, _ASYNC = "compile.enable", "compile.components", "compile.enable_async_tensor_parallel"
_BACKEND = "model.moe_comm_backend"
_DISPATCHERS = {"alltoall": "standard", "deepep": "deepep", "hybridep": "hybridep"}


def _precision(run: Run, say: Say) -> Settings:
    precision = run.layout.precision
    found: dict[str, Any] = {_PARAM: "float32" if precision in ("fp32", "tf32", "fp64") else "bfloat16"}
    if flavor_of(run) is None and precision not in ("fp32", "bf16", "fp16", "tf32", "fp64"):
        say("layout.precision", "the model_spec that the recipe is given decides on quantised matmuls")
        return found
    if precision in _CONVERTERS:
        return found | {_CONVERTER: [_CONVERTERS[precision]]}
    if precision.startswith("fp8"):
        say("layout.precision", f"{precision}: torchtitan 0.3 has rowwise scales alone, which are written")
        return found | {_CONVERTER: ["float8"]}
    if precision == "fp16":
        say("layout.precision", "torchtitan does not train in fp16: bfloat16 is written")
    return found


def _read_precision(settings: Settings, say: Say) -> Fields:
    word = settings.get(_PARAM, "bfloat16")
    if word not in ("float32", "bfloat16"):
        raise SpecError(f"{_PARAM} {word}: float32 or bfloat16")
    precision = "bf16" if word == "bfloat16" else "fp32"
    converters = [str(name) for name in settings.get(_CONVERTER, [])]
    for name in converters:
        kind = name.partition(".")[2].partition(".")[0] if name.startswith("quantize.") else name
        kind = {"linear": "float8", "mx": "mxfp8"}.get(kind, kind)
        if kind == "float8":
            recipe = settings.get(_RECIPE, "rowwise" if settings.get("release.python") else "tensorwise")
            precision = "fp8-tensorwise" if recipe == "tensorwise" else "fp8-rowwise"
        elif kind in ("mxfp8", "nvfp4"):
            precision = kind
        else:
            say(_CONVERTER, f"{name} is not known to parsim: left out")
    return {"layout.precision": precision}


def _dtypes(run: Run, say: Say) -> Settings:
    stored = run.software.params_dtype
    if stored not in _STORED:
        say("software.params_dtype", f"torchtitan does not store {stored}: float32 is written")
    return {_STORED_AS: _STORED.get(stored, "float32"), _REDUCE: "float32"}


def _read_dtypes(settings: Settings, say: Say) -> Fields:
    names = {word: name for name, word in _STORED.items()}
    found = {}
    fields = {_STORED_AS: "software.params_dtype", _REDUCE: "software.gradient_dtype"}
    for setting, field in fields.items():
        word = settings.get(setting, "float32")
        if word not in names:
            raise SpecError(f"{setting} {word}: float32 or bfloat16")
        found[field] = names[word]
    return {**found, "software.master_weights": None}


def _compiled(run: Run, say: Say) -> Settings:
    software = run.software
    compiles = software.ops == "compiled"
    if software.ops == "fused":
        say("software.ops", "torchtitan compiles, or runs op by op, which is written")
    found: dict[str, Any] = {_COMPILE: compiles}
    if compiles:
        found[_COMPONENTS] = ["model", "loss"] if software.loss == "compiled" else ["model"]
        if software.tp_overlap == "async_tp":
            found[_ASYNC] = True
    elif software.tp_overlap == "async_tp":
        say("software.tp_overlap", "torchtitan's async TP needs a compiled model")
    return found


def _read_compiled(settings: Settings, say: Say) -> Fields:
    parts = settings.get(_COMPONENTS, ["model", "loss"])
    on = settings.get(_COMPILE, settings.get("training.compile", False))
    eager = settings.get("parallelism.enable_async_tensor_parallel")  # its place before 0.3
    return {
        "software.ops": "compiled" if on and "model" in parts else "eager",
        "software.loss": "compiled" if on and "loss" in parts and settings.get("release.python") else "torch",
        "software.tp_overlap": "async_tp" if settings.get(_ASYNC) or eager else "none",
    }


def _dispatcher(run: Run, say: Say) -> Settings:
    if run.model.moe is None:
        return {}
    dispatcher = run.software.moe_dispatcher
    if flavor_of(run) is None:
        say("software.moe_dispatcher", "the model_spec that the recipe is given decides on the dispatch")
        return {}
    if dispatcher not in _DISPATCHERS:
        say("software.moe_dispatcher", f"torchtitan has no {dispatcher}: standard, an all-to-all, is written")
    return {_BACKEND: _DISPATCHERS.get(dispatcher, "standard")}


def _routing(run: Run, say: Say) -> Settings:
    balanced = run.model.moe is not None and run.software.routing == "balanced"
    return {"debug.moe_force_load_balance": True} if balanced else {}


def _read_routing(settings: Settings, say: Say) -> Fields:
    return {"software.routing": "balanced" if settings.get("debug.moe_force_load_balance") else "learned"}


def _graphs(run: Run, say: Say) -> Settings:
    return {"training.disable_cuda_graphs": run.software.cuda_graphs == "none"}


def _read_graphs(settings: Settings, say: Say) -> Fields:
    off = settings.get("training.disable_cuda_graphs")
    if off is False and settings.get("parallelism.pipeline_parallel_degree", 1) == 1:
        return {"software.cuda_graphs": "full_iteration"}
    return {"software.cuda_graphs": "none"}


def _seed(run: Run, say: Say) -> Settings:
    return {"debug.seed": run.seed}


def _read_seed(settings: Settings, say: Say) -> Fields:
    seed = settings.get("debug.seed", settings.get("training.seed"))
    return {} if seed is None else {"seed": seed}


SOFTWARE: tuple[Entry, ...] = (
    Entry(
        ("software.framework",),
        (),
        lambda run, say: {},
        lambda settings, say: {"software.framework": "torchtitan"},
    ),
    Entry(
        ("layout.precision",),
        (Setting(_PARAM, "text"), Setting(_CONVERTER, "words"), Setting(_RECIPE, "text")),
        _precision,
        _read_precision,
    ),
    Entry(
        ("software.params_dtype", "software.gradient_dtype", "software.master_weights"),
        (Setting(_STORED_AS, "text"), Setting(_REDUCE, "text")),
        _dtypes,
        _read_dtypes,
    ),
    Entry(
        ("software.ops", "software.loss", "software.tp_overlap"),
        (
            *(Setting(name, "switch") for name in (_COMPILE, _ASYNC, "training.compile")),
            Setting("parallelism.enable_async_tensor_parallel", "switch"),
            Setting(_COMPONENTS, "words"),
        ),
        _compiled,
        _read_compiled,
    ),
    replace(worded("software.moe_dispatcher", _BACKEND, _DISPATCHERS, None), write=_dispatcher),
    Entry(("software.routing",), (Setting("debug.moe_force_load_balance", "switch"),), _routing, _read_routing),
    Entry(("software.cuda_graphs",), (Setting("training.disable_cuda_graphs", "switch"),), _graphs, _read_graphs),
    switch("software.deterministic_attention", "debug.deterministic"),
    worded("software.optimizer", "optimizer.name", {"adam": "AdamW"}, None, also={"Adam": "adam"}),
    Entry(("seed",), (Setting("debug.seed", "whole"), Setting("training.seed", "whole")), _seed, _read_seed),
)
