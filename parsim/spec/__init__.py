"""What you say: GPUs, nodes, clusters, models, layouts and runs, read from YAML and Hugging Face configurations."""

from parsim.spec.cluster import ClusterSpec, FabricSpec, Tier
from parsim.spec.evidence import Evidence, evidence_of
from parsim.spec.gpu import Efficiency, GpuSpec
from parsim.spec.layout import Layout, Mesh, RecomputeSpec
from parsim.spec.load import (
    cluster_from_document,
    found_anywhere,
    load_cluster,
    load_gpu,
    load_model,
    load_node,
    load_run,
    load_search,
    run_document,
    run_from_document,
    search_from_document,
)
from parsim.spec.model import MlaSpec, ModelSpec, MoeSpec
from parsim.spec.network import NetworkOverrides
from parsim.spec.node import NodeSpec
from parsim.spec.offload import Offload
from parsim.spec.problem import validated
from parsim.spec.rules import Rule, check_rules
from parsim.spec.run import Batch, Run
from parsim.spec.search import Search, Space
from parsim.spec.software import Software

__all__ = [
    "Batch",
    "ClusterSpec",
    "Efficiency",
    "Evidence",
    "FabricSpec",
    "GpuSpec",
    "Layout",
    "Mesh",
    "MlaSpec",
    "ModelSpec",
    "MoeSpec",
    "NetworkOverrides",
    "NodeSpec",
    "Offload",
    "RecomputeSpec",
    "Rule",
    "Run",
    "Search",
    "Software",
    "Space",
    "Tier",
    "check_rules",
    "cluster_from_document",
    "evidence_of",
    "found_anywhere",
    "load_cluster",
    "load_gpu",
    "load_model",
    "load_node",
    "load_run",
    "load_search",
    "run_document",
    "run_from_document",
    "search_from_document",
    "validated",
]
