"""Export, then import: the same run in every field that both sides have, and a note for every field that differs."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from parsim import exchange
from parsim.errors import SpecError
from parsim.exchange import SOURCES, Elsewhere, Exported, export, import_run
from parsim.exchange.comparable import comparable
from parsim.exchange.table import checked
from parsim.spec import Run, catalogue, load_run
from tests.exchange.strategies import runs

TABLES = sorted(SOURCES)


def back(exported: Exported, target: str, run: Run, folder: Path) -> Run:
    """The run that the exported files read back as; parts that the tool never says are the run's own."""
    for name, content in exported.beside.items():
        (folder / name).write_text(str(content))
    outside = SOURCES[target].tool.outside
    whole = run.document()
    like: dict[str, Any] = {"cluster": whole["cluster"], "network": whole["network"]}
    if "model" in outside or any(note.about == "model" for note in exported.notes):
        like["model"] = whole["model"]
    if "batch" in outside or "batch.sequence_length" in outside:
        like["batch"] = whole["batch"]
    if "layout.micro_batch_size" in outside:
        like["layout"] = {"micro_batch_size": whole["layout"]["micro_batch_size"]}
    return import_run(target, str(exported.main), folder / "run.txt", Elsewhere(like)).run


def unspoken(run: Run, other: Run, exported: Exported) -> dict[str, Any]:
    """Fields in which the runs differ and that no note names."""
    said = tuple(note.about for note in exported.notes)
    ours, theirs = comparable(run), comparable(other)
    return {
        name: (value, theirs.get(name))
        for name, value in ours.items()
        if theirs.get(name) != value and not any(name == about or name.startswith(f"{about}.") for about in said)
    }


@pytest.mark.parametrize("target", TABLES)
@given(run=runs())
@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_what_is_written_reads_back_or_is_said_not_to(target: str, run: Run, tmp_path: Path) -> None:
    exported = export(run, target)
    assert unspoken(run, back(exported, target, run, tmp_path), exported) == {}


@pytest.mark.parametrize("target", TABLES)
@pytest.mark.parametrize("name", catalogue.names("runs"))
def test_bundled_runs_read_back(target: str, name: str, tmp_path: Path) -> None:
    run = load_run(name)
    exported = export(run, target)
    assert unspoken(run, back(exported, target, run, tmp_path), exported) == {}


@pytest.mark.parametrize("target", TABLES)
@given(run=runs())
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
def test_notes_name_fields_of_runs_and_no_field_that_is_said(target: str, run: Run) -> None:
    """A note about a field that nothing is known of would hide a real difference from the tests above."""
    fields = {*comparable(run), *SOURCES[target].tool.fields, "model"}
    exported = export(run, target)
    for note in exported.notes:
        known = any(name == note.about or name.startswith(f"{note.about}.") for name in fields)
        assert known or note.about in SOURCES[target].tool.settings, note
        assert "\n" not in str(note)


ODD = [0, 1, 3, 7, 10**9, -1, 0.5, True, False, "", "x", "full", [], ["x"], [["layers.0"]], None, {}]


@pytest.mark.parametrize("target", TABLES)
def test_any_value_of_any_setting_is_read_or_refused(target: str) -> None:
    """One setting at a time is odd, the others are a sound run's."""
    tool = SOURCES[target].tool
    sound, _ = tool.write(load_run("llama3-70b-64"))
    refused = 0
    for name in tool.settings:
        for value in ODD:
            try:
                tool.read(checked(tool, {**sound, "WORLD_SIZE": 512, "model.layers": 80, name: value}))
            except SpecError:
                refused += 1
    assert refused > 50


def test_every_source_is_a_target() -> None:
    assert set(SOURCES) <= set(exchange.TARGETS)
