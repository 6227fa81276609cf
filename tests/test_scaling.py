"""Scaling laws: their published figures, both directions, the command."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.cli import run_app
from parsim.cli.commands import app
from parsim.errors import SpecError
from parsim.scaling import LAWS, growth, kaplan_frontier, of_flops, of_parameters


def test_kaplan_asks_for_nearly_five_times_the_tokens_of_eight_times_the_parameters() -> None:
    """Kaplan et al. 2020, section 4.4: every time the model grows 8 times, the data need grow only 5 times."""
    assert growth("kaplan", 8) == pytest.approx(4.66, abs=0.005)
    assert growth("chinchilla", 8) == 8
    assert of_parameters(8e9, "kaplan").tokens / of_parameters(1e9, "kaplan").tokens == pytest.approx(4.66, abs=0.005)


def test_chinchilla_itself() -> None:
    """70B parameters on 1.4T tokens, 5.76e23 FLOP (Hoffmann et al. 2022, tables 1 and 3)."""
    chinchilla = of_parameters(70e9)
    assert chinchilla.tokens == pytest.approx(1.4e12)
    assert chinchilla.flops == pytest.approx(5.76e23, rel=0.03)


def test_kaplan_spends_compute_on_parameters() -> None:
    """Ten times the compute: 5.4 times the parameters by Kaplan's frontier, 3.2 by Chinchilla."""
    assert kaplan_frontier(1e22).parameters / kaplan_frontier(1e21).parameters == pytest.approx(10**0.73)
    assert of_flops(1e22).parameters / of_flops(1e21).parameters == pytest.approx(10**0.5)
    assert kaplan_frontier(1e15 * 86_400).parameters == pytest.approx(1.3e9)


@given(law=st.sampled_from(sorted(LAWS)), parameters=st.floats(1, 1e15))
def test_both_directions_agree(law: str, parameters: float) -> None:
    scale = of_parameters(parameters, law)
    assert scale.flops == pytest.approx(6 * scale.parameters * scale.tokens)
    if scale.flops <= 1e30:
        again = of_flops(scale.flops, law)
        assert (again.parameters, again.tokens) == pytest.approx((scale.parameters, scale.tokens), rel=1e-9)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e31])
def test_impossible_numbers(value: float) -> None:
    for ask in (of_parameters, of_flops):
        with pytest.raises(SpecError, match="must be from 1 to 1e"):
            ask(value)
    with pytest.raises(SpecError, match="law moore: one of kaplan, chinchilla"):
        of_parameters(1e9, "moore")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    words = ["scaling", "--flops", "6.3e24", "--gpu", "h100-80g-sxm", "--json", str(out)]
    assert run_app(app, "parsim", words) == 0
    shown, document = capsys.readouterr().out, json.loads(out.read_text())
    assert "chinchilla" in shown
    assert "kaplan" in shown
    assert document["flops"] == pytest.approx(6.3e24)
    assert document["tokens_per_parameter"] == pytest.approx(20)
    assert document["gpu_hours"] == pytest.approx(4.42e6, rel=0.002)
    assert [row["law"] for row in document["others"]] == ["kaplan", "kaplan, compute-efficient"]
    assert all(row["flops"] == pytest.approx(6.3e24) for row in document["others"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "either --parameters N or --flops C"),
        (["--flops", "1e20", "--parameters", "1e9"], "either --parameters N or --flops C"),
        (["--flops", "1e20", "--law", "moore"], "law moore"),
        (["--flops", "1e20", "--gpu", "h100-80g-sxm", "--mfu", "1.5"], "mfu 1.5"),
        (["--flops", "-3"], "flops -3"),
    ],
)
def test_what_the_command_refuses(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, "parsim", ["scaling", *words]) == 2
    assert message in capsys.readouterr().err
