"""The contract of every catalogue file: it loads, it is called what its file is, and every number has a source."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import parsim
from parsim.errors import SpecError
from parsim.spec import catalogue, evidence_of, load_cluster, load_gpu, load_model, load_node, load_run
from parsim.spec.evidence import Evidence
from parsim.spec.yaml_reader import read_document

LOADERS: dict[str, Callable[[str], Any]] = {
    "gpus": load_gpu,
    "nodes": load_node,
    "clusters": load_cluster,
    "models": load_model,
    "runs": load_run,
}
FILES = [(kind, name) for kind in LOADERS for name in catalogue.names(kind)]

USED_BY_SCRIPTS = {
    "clusters": "azure-ndv4 azure-ndv5 dgx-a100 dgx-h100 dgx-h200 dgx-b200 gb200-nvl72 gb300-nvl72 h800-deepseek "
    "meta-h100-roce aws-p4d aws-p5 local-cpu",
    "gpus": "a100-40g-sxm a100-80g-sxm a800-80g-sxm h100-80g-sxm h100-96g-hbm2e-500w h200-141g-sxm h800-80g-sxm "
    "b200-180g-sxm b300-288g-sxm gb200-nvl72 gb300-nvl72 mi300x",
    "models": "gpt3-175b llama2-7b llama2-13b llama2-70b llama3-8b llama3-70b llama3-405b mixtral-8x7b mixtral-8x22b "
    "qwen3-30b-a3b qwen3-235b-a22b deepseek-v2 deepseek-v3 gpt2",
    "runs": "llama3-405b-16k llama3-70b-64 gpt3-175b-1024 tiny-local",
}
QUANTITY = re.compile(r"[0-9.]+ [A-Za-z/]+\Z")


def numbers(value: object, path: str = "") -> Iterator[str]:
    """Dotted paths of all numbers and quantities of a document; the items of a list share its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if path or key not in ("evidence", "name"):
                yield from numbers(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner, path)
    elif (isinstance(value, int | float) and not isinstance(value, bool)) or (
        isinstance(value, str) and QUANTITY.match(value)
    ):
        yield path


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_file_loads_under_its_name(kind: str, name: str) -> None:
    assert LOADERS[kind](name).name == name


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_every_number_has_evidence(kind: str, name: str) -> None:
    document = read_document(catalogue.path_of(kind, name), kind)
    evidence = {path: Evidence.model_validate(entry) for path, entry in document["evidence"].items()}
    found = list(numbers(document))
    assert found
    for path in found:
        entry = evidence_of(path, evidence)
        assert entry is not None, f"{path} has no source"
        if "memory, unverified" in entry.source or "carried over" in entry.source:
            assert entry.grade == "assumed", path


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_evidence_speaks_of_fields_that_exist(kind: str, name: str) -> None:
    document = read_document(catalogue.path_of(kind, name), kind)
    for path in document["evidence"]:
        inner: Any = document
        for step in [] if path == "all" else re.split(r"\.(?=[a-z])", path):
            assert step in inner, f"{path}: {step}"
            inner = inner[step]


@pytest.mark.parametrize("kind", USED_BY_SCRIPTS)
def test_names_that_scripts_use_are_there(kind: str) -> None:
    assert set(USED_BY_SCRIPTS[kind].split()) <= set(catalogue.names(kind))


@pytest.mark.parametrize("name", catalogue.names("gpus"))
def test_gpu_is_physically_plausible(name: str) -> None:
    gpu = load_gpu(name)
    assert set(gpu.efficiency.matmul) == set(gpu.flops_per_s)
    rates = gpu.flops_per_s
    if "fp8" in rates:
        assert rates["fp8"] == pytest.approx(2 * rates["bf16"], rel=0.01)
    # A card turns over its memory in 15 to 60 ms; local-cpu is a stand-in.
    assert name == "local-cpu" or 0.015 < gpu.memory_bytes / gpu.hbm_bytes_per_s < 0.06


@pytest.mark.parametrize("name", catalogue.names("clusters"))
def test_cluster_is_consistent(name: str) -> None:
    cluster = load_cluster(name)
    tiers = [tier.nodes for tier in cluster.fabric.tiers]
    assert tiers == sorted(tiers)
    assert cluster.node.nvlink_domain % cluster.node.gpus == 0
    if cluster.nodes is not None and tiers:
        assert tiers[-1] == cluster.nodes


def test_units_reach_si() -> None:
    gpu = load_gpu("h100-80g-sxm")
    assert gpu.memory_bytes == 81559 * 2**20
    assert gpu.hbm_bytes_per_s == 3.35e12
    assert gpu.peak_flops_per_s("fp8-blockwise") == 1979e12
    node = load_node("dgx-h100")
    assert node.nic_bytes_per_s_per_gpu == 50e9
    assert load_node("aws-p4d").nic_bytes_per_s_per_gpu == pytest.approx(6.25e9)
    assert load_cluster("meta-h100-roce").gpus == 24576


def test_elastic_cluster_has_no_size(refusal: Callable[..., str]) -> None:
    assert "elastic" in refusal(lambda: load_cluster("dgx-h100").gpus)


@pytest.mark.parametrize(
    ("kind", "typo", "meant"),
    [
        ("gpus", "h100-80-sxm", "h100-80g-sxm"),
        ("clusters", "dgxh100", "dgx-h100"),
        ("models", "llama-3-8b", "llama3-8b"),
    ],
)
def test_unknown_name_suggests_the_nearest(kind: str, typo: str, meant: str, refusal: Callable[..., str]) -> None:
    message = refusal(lambda: LOADERS[kind](typo))
    assert f"did you mean '{meant}'" in message
    assert f"parsim list {kind}" in message


@pytest.mark.parametrize("name", ["../models/gpt2", "/etc/passwd", "", ".", "a\0b", "x" * 5000, "gpt2.yaml"])
def test_names_do_not_escape_the_catalogue(name: str, refusal: Callable[..., str]) -> None:
    refusal(lambda: catalogue.path_of("models", name))


def test_an_installed_package_carries_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "parsim"
    (package / "topologies").mkdir(parents=True)
    monkeypatch.setattr(parsim, "__file__", str(package / "__init__.py"))
    assert catalogue.root.__wrapped__() == package / "topologies"


def test_unknown_kind() -> None:
    with pytest.raises(SpecError, match="did you mean 'gpus'"):
        catalogue.names("gpu")
