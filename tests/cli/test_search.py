"""`parsim search` as a user meets it: files, JSON, explanations, and what is refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from parsim.cli.search import parse_budget
from parsim.errors import SpecError
from tests.cli.conftest import Cli
from tests.search.conftest import document

NAMES = {
    "space",
    "removed",
    "feasible",
    "played",
    "certified",
    "gap",
    "bound_s",
    "run_info",
    "best",
    "top",
    "pareto",
    "rejected",
}


@pytest.fixture
def small_file(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(document(2)))
    return str(path)


def found(cli: Cli, *arguments: str) -> dict[str, Any]:
    done = cli("search", *arguments, "--jobs", "1", "--contention", "0", "--json", "-")
    assert done.code == 0, done.err
    result: dict[str, Any] = json.loads(done.out)
    return result


def test_json_has_the_names_that_scripts_use(cli: Cli, small_file: str) -> None:
    result = found(cli, small_file)
    assert set(result) >= NAMES
    assert set(result["run_info"]) >= {"cpu_s", "wall_s", "workers"}
    for line in result["rejected"]:
        assert set(line) >= {"family", "rule", "detail", "nearest"}


def test_the_table_says_what_is_proven(cli: Cli, small_file: str) -> None:
    done = cli("search", small_file, "--jobs", "1", "--contention", "1")
    assert done.code == 0, done.err
    assert "proven to be the best of" in done.out
    assert "removed:" in done.out
    assert done.err == ""  # progress is for terminals


def test_a_space_can_be_changed_and_explained(cli: Cli, small_file: str) -> None:
    result = found(cli, small_file, "--set", "space.tp=[1, 2]", "--explain", "tp=2,pp=1")
    assert result["explanation"]["asked"] == "tp=2,pp=1"
    assert result["explanation"]["rank"] >= 1
    assert result["search"]["space"]["tp"]["values"] == [1, 2]


def test_the_page_is_one_offline_file(cli: Cli, small_file: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = cli("search", small_file, "--jobs", "1", "--contention", "0", "--html", str(page))
    assert done.code == 0, done.err
    text = page.read_text()
    assert "Time against memory" in text
    assert "Number 1 of the list, played" in text
    assert text.count('id="plan1"') == 1
    assert 'http-equiv="Content-Security-Policy"' in text


def test_check_counts_the_layouts(cli: Cli, small_file: str) -> None:
    done = cli("check", small_file)
    assert done.code == 0, done.err
    assert "layouts" in done.out
    assert cli("check", "gpt3-175b-a100-calculon").out.strip().endswith("11,698,528 layouts")
    schema = json.loads(cli("check", "search", "--schema").out)
    assert "space" in schema["properties"]


def test_searches_are_listed(cli: Cli) -> None:
    rows = json.loads(cli("list", "searches", "--json", "-").out)["searches"]
    assert {row["name"] for row in rows} == {"gpt3-175b-a100-calculon", "llama3-405b-h100"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--budget", "soon"), "60s, 5m or 1h"),
        (("--budget", "0s"), "above 0"),
        (("--top", "0"), "top 0"),
        (("--explain", "tp"), "FIELD=VALUE"),
        (("--explain", "tpp=1"), "FIELD=VALUE"),
        (("--contention", "-1"), "0 or more"),
        (("--set", "space.tp=many"), "space.tp"),
        (("--set", "space.schedule=zb-auto"), "made for the times"),
        (("--set", "objective=gpus_for_deadline"), "needs tokens and deadline_days"),
    ],
)
def test_refusals_are_one_line(cli: Cli, small_file: str, arguments: tuple[str, ...], says: str) -> None:
    done = cli("search", small_file, "--jobs", "1", *arguments)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert says in done.err


def test_an_unknown_search_is_called_one(cli: Cli) -> None:
    done = cli("search", "nope")
    assert (done.code, done.err) == (2, "error: no bundled search 'nope'; `parsim list searches` shows all\n")


def test_no_layout_that_fits_is_an_answer(cli: Cli, small_file: str) -> None:
    result = found(cli, small_file, "--set", "reserve_bytes=79.99 GiB")
    assert result["best"] is None
    assert result["certified"]
    assert result["removed"]["memory"] > 0
    assert result["rejected"]


@pytest.mark.parametrize(("text", "seconds"), [("60s", 60), ("5m", 300), ("1.5h", 5400), ("7", 7), ("2min", 120)])
def test_budgets(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1d", "1e9s", "nan"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(SpecError):
        parse_budget(text)
