"""The README's examples run as written."""

import re
import shlex
from pathlib import Path

import pytest

from parsim.cli import run

README = (Path(__file__).parent.parent / "README.md").read_text()
COMMANDS = [line.removeprefix("$ ") for line in README.splitlines() if line.startswith("$ parsim ")]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_every_command_of_the_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one folder: later ones read what earlier ones wrote."""
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) >= 10
    for command in COMMANDS:
        assert run(shlex.split(command)[1:]) == 0, command
    assert {path.suffix for path in tmp_path.iterdir()} == {".html", ".csv", ".json", ".yaml"}


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert PYTHON
    for code in PYTHON:
        exec(compile(code, "README.md", "exec"), {})
    assert "MFU" in capsys.readouterr().out


def test_every_room_is_named() -> None:
    rooms = {path.name for path in (Path(__file__).parent.parent / "parsim").iterdir() if path.is_dir()}
    missing = {room for room in rooms - {"__pycache__"} if f"`{room}/`" not in README}
    assert not missing
