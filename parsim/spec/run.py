"""Run: one training step of one model on one cluster, everything a prediction may read."""

from typing import Annotated, Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from parsim.errors import LayoutError
from parsim.spec.base import AtLeastZero, ByName, Count, Name, Spec
from parsim.spec.checks import check_run
from parsim.spec.cluster import ClusterSpec
from parsim.spec.evidence import EvidenceMap
from parsim.spec.layout import Layout
from parsim.spec.model import ModelSpec
from parsim.spec.network import NetworkOverrides
from parsim.spec.software import Software
from parsim.spec.split import layers_of_parts

__all__ = ["ONLY_WITH_EXPERTS", "Batch", "Run"]

ONLY_WITH_EXPERTS = {
    "layout.ep",
    "layout.expert_tp",
    "software.ep_overlap",
    "software.fused_moe_activation",
    "software.moe_dispatcher",
    "software.routing",
}
"""Switches that mean nothing for a dense model."""
_ONLY_UNBALANCED = {"software.router_skew", "software.balance_loss"}
_ONLY_WITH_DROPPED_TOKENS = {"software.capacity_factor", "software.pad_to_capacity"}


class Batch(Spec):
    """What one optimizer step sees."""

    sequence_length: Count
    """Tokens of a sequence."""
    global_batch_size: Count
    """Sequences of a step, over all data-parallel ranks and micro-batches."""


class Run(Spec):
    """A run. Its cluster has the run's `network` overrides and a number of nodes; its software an attention kernel.

    Raises LayoutError where the layout does not fit the model, the batch or the cluster.
    """

    name: Name = "run"
    model: Annotated[ModelSpec, ByName()]
    layout: Layout
    batch: Batch
    network: NetworkOverrides = NetworkOverrides()
    cluster: Annotated[ClusterSpec, ByName()]
    software: Software = Field(default_factory=dict, validate_default=True)
    seed: AtLeastZero = 0
    evidence: EvidenceMap = Field(default_factory=dict, validate_default=True)
    """Where a published layout comes from."""

    @field_validator("cluster")
    @classmethod
    def _sized(cls, cluster: ClusterSpec, info: ValidationInfo) -> ClusterSpec:
        network, layout = info.data.get("network"), info.data.get("layout")
        if network is None or layout is None:
            return cluster  # their own errors are reported
        cluster = network.applied_to(cluster)
        if cluster.nodes is None:
            cluster = cluster.model_copy(update={"nodes": -(-layout.mesh.size // cluster.node.gpus)})
        return cluster

    @field_validator("software")
    @classmethod
    def _resolved(cls, software: Software, info: ValidationInfo) -> Software:
        cluster, layout = info.data.get("cluster"), info.data.get("layout")
        if cluster is None or layout is None:
            return software
        stated, values = set(software.model_fields_set), dict[str, Any]()
        if software.attention is None:
            values["attention"] = next(iter(cluster.node.gpu.efficiency.attention))
            stated.discard("attention")
        if "params_dtype" not in stated and layout.precision in ("fp16", "fp32", "fp64", "tf32"):
            values["params_dtype"] = "fp32" if layout.precision == "tf32" else layout.precision
            if layout.precision != "fp16" and "master_weights" not in stated:
                values["master_weights"] = None
        if "gradient_dtype" not in stated and layout.precision == "fp64":
            values["gradient_dtype"] = "fp64"
        if values:
            software = software.model_copy(update=values)
            software.model_fields_set.intersection_update(stated)
        return software

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_run(self.model, self.cluster, self.layout, self.software, self.batch.sequence_length)
        self._check_batch()
        return self

    def _check_batch(self) -> None:
        unit = self.layout.micro_batch_size * self.layout.mesh.dp
        size = self.batch.global_batch_size
        if size % unit:
            below, above = size // unit * unit, (size // unit + 1) * unit
            raise LayoutError(
                f"batch.global_batch_size {size}: must be a multiple of micro_batch_size "
                f"{self.layout.micro_batch_size} * dp {self.layout.mesh.dp} = {unit}; "
                + (f"{below} or {above} would do" if below else f"{above} would do")
            )

    @property
    def microbatches(self) -> int:
        """Micro-batches that a data-parallel rank sees in a step."""
        return self.batch.global_batch_size // (self.layout.micro_batch_size * self.layout.mesh.dp)

    @property
    def ranks(self) -> int:
        """Ranks of the mesh: GPUs that work."""
        return self.layout.mesh.size

    @property
    def expert_dp(self) -> int:
        """Ranks that hold the same experts: dp * cp * tp / (ep * expert_tp)."""
        mesh = self.layout.mesh
        return mesh.dp * mesh.cp * mesh.tp // (self.layout.ep * self.layout.expert_tp)

    def changed(self, **parts: Any) -> Self:
        """The run with other parts (`layout=`, `batch=`, ...), checked again; what it does not state stays assumed."""
        return type(self).model_validate({**{name: getattr(self, name) for name in type(self).model_fields}, **parts})

    def layers_of_parts(self, parts: int) -> tuple[int, ...]:
        """Layers of each part, first to last; they sum to the model's. LayoutError if the split does not fit."""
        return layers_of_parts(self.layout.split, self.model.layers, parts)

    @property
    def assumed(self) -> tuple[str, ...]:
        """Dotted names of the switches that the run did not state and that could matter to it."""
        routing = "balanced" if self.model.moe is None else self.software.routing
        skipped = set() if self.model.moe is not None else set(ONLY_WITH_EXPERTS)
        skipped |= _ONLY_UNBALANCED if routing == "balanced" else set()
        skipped |= _ONLY_WITH_DROPPED_TOKENS if routing != "token_drop" else set()
        if self.layout.mesh.cp == 1:
            skipped |= {"layout.cp_comm", "layout.cp_split"}
        if not self.layout.fsdp:
            skipped |= {"layout.reshard_after_forward", "software.fsdp_unit", "software.fsdp_root"}
        if self.layout.mesh.pp == 1:
            skipped |= {"layout.schedule", "layout.stages_per_rank", "layout.split", "layout.group_size"}
            skipped.add("layout.activation_limit_stages")
        names = [
            f"{room}.{field}"
            for room, spec in (("layout", self.layout), ("software", self.software))
            for field in type(spec).model_fields
            if field not in spec.model_fields_set
        ]
        return tuple(name for name in names if name not in skipped)

    def document(self) -> dict[str, Any]:
        """The whole resolved run as plain JSON values; `Run.model_validate` reads it back."""
        return self.model_dump(mode="json")
