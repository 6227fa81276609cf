"""Search: what a planner may choose from, and what it is to choose for.

A search names a model, a cluster and a batch as a run does, and in `space` which values each field of the layout may
have: one (`tp: 8`), a list (`tp: [4, 8]`), a range (`tp: {most: 8}`) or `all`, which is every value that divides what
it must divide. What the space leaves out has a run's default.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from parsim.spec.base import LARGEST_COUNT, AtLeastZero, ByName, Count, Flag, Name, Spec
from parsim.spec.cluster import ClusterSpec
from parsim.spec.evidence import EvidenceMap
from parsim.spec.layout import Precision, RecomputeSpec
from parsim.spec.model import ModelSpec
from parsim.spec.network import NetworkOverrides
from parsim.spec.quantity import Bytes
from parsim.spec.run import Batch
from parsim.spec.software import Software
from parsim.spec.split import Split

__all__ = ["OFFLOADS", "TP_COMMS", "Money", "Numbers", "Search", "Space"]

TP_COMMS = ("all_reduce", "scatter_gather", "sequence_parallel", "sequence_parallel_kept")
"""How tensor parallelism sums: an all-reduce; the same as reduce-scatter and all-gather; sequence parallelism, whose
backward gathers the inputs of column-parallel matmuls again; or with these kept from the forward."""
OFFLOADS = ("weights", "activations", "optimizer")


def _list(value: Any) -> Any:
    """One value is a list of one."""
    return value if isinstance(value, list | tuple) else (value,)


def _splits(value: Any) -> Any:
    """One split, a word or a list of layers, is a list of one."""
    single = isinstance(value, str) or (isinstance(value, list | tuple) and all(isinstance(n, int) for n in value))
    return (value,) if single else value


def _several(*values: str) -> Any:
    known: Any = Literal[values]
    return Annotated[tuple[known, ...], BeforeValidator(_list), Field(min_length=1)]


Flags = Annotated[tuple[Flag, ...], BeforeValidator(_list), Field(min_length=1)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_list), Field(min_length=1)]


Splits = Annotated[tuple[Split, ...], BeforeValidator(_splits), Field(min_length=1)]


class Numbers(Spec):
    """Whole numbers that a field may have: those listed, or all from `least` to `most`."""

    values: tuple[Count, ...] | None = None
    least: Count = 1
    most: Count = LARGEST_COUNT

    @model_validator(mode="before")
    @classmethod
    def _written(cls, data: Any) -> Any:
        if data == "all":
            return {}
        if isinstance(data, int) and not isinstance(data, bool):
            return {"values": (data,)}
        return {"values": data} if isinstance(data, list | tuple) else data

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.values is not None and not self.values:
            raise ValueError("an empty list leaves no value; write all, a number, a list or {least, most}")
        if self.values is not None and len(set(self.values)) < len(self.values):
            raise ValueError("a value is listed twice")
        if self.least > self.most:
            raise ValueError(f"least {self.least} is more than most {self.most}")
        return self

    def __contains__(self, number: object) -> bool:
        if self.values is not None:
            return number in self.values
        return isinstance(number, int) and self.least <= number <= self.most

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        number = {"type": "integer", "minimum": 1}
        return {"anyOf": [{"const": "all"}, number, {"type": "array", "items": number}, handler(core)]}


ONE = Numbers(values=(1,))


class Space(Spec):
    """What each field of the layout may be. The switches of an axis have one value where its degree is 1."""

    tp: Numbers = Numbers()
    cp: Numbers = ONE
    ep: Numbers = Numbers()
    """Of models with experts."""
    expert_tp: Numbers = ONE
    pp: Numbers = Numbers()
    dp: Numbers = Numbers()
    schedule: Names = ("1f1b", "interleaved")
    """Where pp is 1 there is nothing to schedule: gradient accumulation, played as 1f1b."""
    stages_per_rank: Numbers = Numbers(most=8)
    split: Splits = ("even",)
    micro_batch_size: Numbers = Numbers(most=8)
    recompute: Annotated[tuple[RecomputeSpec, ...], BeforeValidator(_list), Field(min_length=1)] = (
        RecomputeSpec(),
        RecomputeSpec(mode="selective"),
        RecomputeSpec(mode="full"),
    )
    tp_comm: _several(*TP_COMMS) = ("sequence_parallel",)  # type: ignore[valid-type]
    zero: Annotated[
        tuple[Annotated[int, Field(strict=True, ge=0, le=3)], ...], BeforeValidator(_list), Field(min_length=1)
    ] = (0, 1)
    dp_overlap: Flags = (True,)
    tp_overlap: _several("none", "te_userbuffers", "async_tp") = ("none",)  # type: ignore[valid-type]
    ep_overlap: Flags = (False,)
    cp_comm: _several("ring", "a2a", "allgather") = ("ring",)  # type: ignore[valid-type]
    precision: Annotated[tuple[Precision, ...], BeforeValidator(_list), Field(min_length=1)] = ("bf16",)
    offload: Annotated[tuple[Literal["weights", "activations", "optimizer"], ...], BeforeValidator(_list)] = ()
    """What may be kept in the host's memory: each, free of the others, there or not."""
    networks: Flag = False
    """Whether tp, pp and dp may each be put on NVLink or on the NICs, instead of where the order of ranks puts them."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for name in type(self).model_fields:
            values = getattr(self, name)
            if isinstance(values, tuple) and len(set(values)) < len(values):
                raise ValueError(f"{name}: a value is listed twice")
        return self


class Money(Spec):
    """What a GPU costs and draws. The defaults are assumptions, and the result says so."""

    dollars_per_gpu_hour: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 2.0
    watts_per_gpu: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 1000.0
    """All the time, with its share of host, network and cooling."""


class Search(Spec):
    """A search. Its cluster says how many nodes, unless `nodes` lists several sizes to compare."""

    name: Name = "search"
    model: Annotated[ModelSpec, ByName()]
    batch: Batch
    round_batch: Flag = False
    """Where dp does not divide the global batch, take the next lower multiple instead of refusing; times are compared
    for the same number of sequences."""
    network: NetworkOverrides = NetworkOverrides()
    cluster: Annotated[ClusterSpec, ByName()]
    nodes: Annotated[tuple[Count, ...], BeforeValidator(_list)] = ()
    """Sizes of the cluster to choose from; none: the cluster's own."""
    software: Software = Field(default_factory=dict, validate_default=True)
    space: Space = Space()
    reserve_bytes: Bytes = 1.5 * 2**30
    """Of a GPU's memory what no layout may use: context and communication buffers outside the allocator."""
    objective: Annotated[
        tuple[Literal["step_time", "tokens_per_dollar", "energy", "gpus_for_deadline"], ...],
        BeforeValidator(_list),
        Field(min_length=1),
    ] = ("step_time",)
    """What is best; the first decides, and the Pareto front is of all of them."""
    tokens: Annotated[float, Field(gt=0, le=1e18, allow_inf_nan=False)] | None = None
    """Tokens of the whole training, for days, dollars and energy."""
    deadline_days: Annotated[float, Field(gt=0, le=1e5, allow_inf_nan=False)] | None = None
    money: Money = Money()
    seed: AtLeastZero = 0
    evidence: EvidenceMap = Field(default_factory=dict, validate_default=True)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if "gpus_for_deadline" in self.objective and (self.tokens is None or self.deadline_days is None):
            raise ValueError("objective gpus_for_deadline needs tokens and deadline_days")
        if len(set(self.objective)) < len(self.objective) or len(set(self.nodes)) < len(self.nodes):
            raise ValueError("objective and nodes name each value once")
        if not self.nodes and self.cluster.nodes is None:
            raise ValueError("the cluster is elastic: say how many nodes, as nodes: 64 or nodes: [32, 64]")
        if self.model.moe is None and (self.space.ep.values or self.space.expert_tp.values != (1,)):
            raise ValueError(f"space.ep and space.expert_tp: {self.model.name} has no experts")
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of nodes, ascending."""
        return tuple(sorted(self.nodes)) or (self.cluster.nodes or 1,)

    def document(self) -> dict[str, Any]:
        """The whole resolved search as plain JSON values; `Search.model_validate` reads it back."""
        return self.model_dump(mode="json")
