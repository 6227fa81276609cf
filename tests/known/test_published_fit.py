"""The fit of the roofline to published runs: derivatives, solutions with a known answer, and what is written where."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from parsim.cost import constants
from parsim.cost.constants import FITTED
from parsim.errors import SpecError
from parsim.spec import catalogue

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "published"
NAMES = ("sc21-t1-1.7b", "zb-t4-1.5b-1f1b-m24", "simumax-b200-llama3_70b_l12_tp1_pp2_dp4_mbc4_cef")
LAYER = "korth-t4-layer-22b-baseline"


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARK))
        names = ("records", "predict", "parameters", "fitting", "terms", "writing")
        found: dict[str, Any] = {name: importlib.import_module(name) for name in names}
        records = found["records"].read_records(BENCHMARK / "published.yaml")
        chosen = [record for record in records if record["id"] in (*NAMES, LAYER)]
        samples, refused = found["fitting"].samples_of(chosen)
        assert refused == []
        gpus = {sample.run.cluster.node.gpu.name for sample in samples}
        yield {**found, "chosen": chosen, "samples": samples, "known": found["parameters"].parameters(gpus)}


def test_without_factors_a_sample_is_what_is_predicted(modules: dict[str, Any]) -> None:
    found, _ = modules["predict"].predictions(modules["chosen"])
    for sample in modules["samples"]:
        seconds = sample.seconds(modules["parameters"].Setting({}))
        assert seconds == pytest.approx(found[sample.record["id"]][sample.figure], rel=1e-9)
    assert [sample.figure for sample in modules["samples"]].count("layer_fwd_ms") == 1


def test_derivatives_leave_out_only_what_a_price_does_not_read(modules: dict[str, Any]) -> None:
    """Every column again, with nothing left out."""
    samples, known = modules["samples"][-2:], modules["known"]
    setting = modules["parameters"].Setting({})
    table = modules["fitting"].derivatives(samples, known, setting)
    base = modules["fitting"].errors(samples, setting)
    for column, parameter in enumerate(known):
        moved = modules["fitting"].errors(samples, setting.moved(**{parameter.name: float(np.exp(0.03))}))
        assert table[:, column] == pytest.approx((moved - base) / 0.03, abs=1e-9), parameter.name
    used = np.abs(table).sum(axis=0) > 0
    assert 20 < used.sum() < len(known)
    assert np.all(table[:, [p.name.endswith("matmul.bf16") for p in known]] <= 0)


def test_every_constant_is_moved_or_held_for_a_reason(modules: dict[str, Any]) -> None:
    setting = modules["parameters"].Setting({"constants.norm_passes": 2.0, "gpus.hbm": 0.5})
    assert setting.constants.norm_passes == 2 * FITTED.norm_passes
    assert setting.constants.step_s == FITTED.step_s
    run = setting.at(modules["samples"][0].run)
    assert run.cluster.node.gpu.efficiency.hbm == 0.5 * modules["samples"][0].run.cluster.node.gpu.efficiency.hbm
    names = [parameter.name for parameter in modules["known"]]
    assert len(set(names)) == len(names)
    assert "constants.tile_rows" not in names


def test_a_solution_with_a_known_answer(modules: dict[str, Any]) -> None:
    """Forty samples, one of them an outlier: absolute errors find the true factors, squares would not."""
    random = np.random.default_rng(1)
    table = random.normal(size=(40, 3))
    truth = np.array([0.2, -0.1, 0.05])
    base = -table @ truth
    base[0] += 3.0
    far = np.full(3, 1.0)
    shifts, promised = modules["fitting"].solve(base, table, np.full(40, 1.0), np.zeros(3), far, pull=1e-6)
    assert shifts == pytest.approx(truth, abs=0.01)
    assert np.median(np.abs(promised)) < 0.01
    bounded, _ = modules["fitting"].solve(base, table, np.full(40, 1.0), np.zeros(3), np.full(3, 0.1), pull=1e-6)
    assert bounded.max() <= 0.1 + 1e-12


def test_what_no_sample_tells_stays(modules: dict[str, Any]) -> None:
    table = np.column_stack((np.ones(10), np.zeros(10)))
    shifts, _ = modules["fitting"].solve(np.full(10, -0.1), table, np.ones(10), np.zeros(2), np.ones(2))
    assert shifts[1] == pytest.approx(0, abs=1e-9)
    assert 0.05 < shifts[0] <= 0.1


def test_a_term_left_out_makes_steps_shorter(modules: dict[str, Any]) -> None:
    start = modules["parameters"].Setting({})
    for name, term in modules["terms"].TERMS.items():
        if not term.alike:
            without = term.setting(start, modules["known"])
            for sample in modules["samples"]:
                seconds = sample.seconds(without, without=term.without)
                assert 0 < seconds <= sample.seconds(start) * (1 + 1e-9), name


def test_numbers_are_written_where_they_stand_and_nothing_else_changes(modules: dict[str, Any]) -> None:
    writing, known = modules["writing"], modules["known"]
    factors = {p.name: 1.1 for p in known}
    files = writing.changed_files(known, factors)
    assert Path(constants.__file__) in files
    assert catalogue.path_of("gpus", "a800-80g-sxm") in files  # shares what A100 runs tell
    for path, text in files.items():
        old = path.read_text().splitlines()
        new = text.splitlines()
        assert len(old) == len(new)
        assert [line.partition("#")[2] for line in old] == [line.partition("#")[2] for line in new]
        if path.suffix == ".yaml":
            before, after = (yaml.safe_load("\n".join(lines)) for lines in (old, new))
            assert before.get("evidence") == after.get("evidence")
            assert before.keys() == after.keys()
    efficiency = yaml.safe_load(files[catalogue.path_of("gpus", "b200-180g-sxm")])["efficiency"]
    old_efficiency = catalogue.document("gpus", "b200-180g-sxm")["efficiency"]
    assert efficiency["matmul"]["fp16"] == pytest.approx(1.1 * old_efficiency["matmul"]["fp16"], rel=0.006)
    assert writing.changed_files(known, {}) == {}


def test_what_stands_nowhere_cannot_be_written(modules: dict[str, Any]) -> None:
    assert modules["writing"].with_constant("    step_s: float = 1.0", "step_s", 24) == "    step_s: float = 24.0"
    with pytest.raises(SpecError, match="no_such"):
        modules["writing"].with_constant("    step_s: float = 1.0", "no_such", 2.0)
    with pytest.raises(SpecError, match="stands 2 times"):
        modules["writing"].with_field("nic: 1\nnic: 2\n", "efficiency.nic", 2.0)


def test_from_a_file_to_fitted_numbers(modules: dict[str, Any], tmp_path: Path) -> None:
    data, out = tmp_path / "data.yaml", tmp_path / "fit.json"
    data.write_text(yaml.safe_dump([dict(record) for record in modules["chosen"]]))
    command = [sys.executable, str(BENCHMARK / "fit.py"), "--data", str(data), "--json", str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(out.read_text())
    assert found["after"]["all"] <= found["before"]["all"]
    assert found["timings"] == 5
    assert "cross-validated" in done.stdout
    assert set(found["factors"]) == {parameter.name for parameter in modules["known"]}
