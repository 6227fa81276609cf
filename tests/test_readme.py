"""The README's examples run as written."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from parsim.cli import run

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = [
    [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
]
EXECUTOR = "python -m executor "
COMMANDS = [command for block in BLOCKS for command in block if not any(c.startswith(EXECUTOR) for c in block)]
REAL = [command for block in BLOCKS for command in block if any(c.startswith(EXECUTOR) for c in block)]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_every_command_of_the_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one folder: later ones read what earlier ones wrote."""
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) >= 10
    for command in COMMANDS:
        assert run(shlex.split(command)[1:]) == 0, command
    assert {path.suffix for path in tmp_path.iterdir()} == {
        *(".html", ".csv", ".json", ".yaml"),
        *(".sh", ".py", ".et", ".yml"),  # of other tools
    }


def test_every_command_on_real_processes_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the extra [run] is not installed")
    monkeypatch.chdir(tmp_path)
    assert run(["schedule", "dualpipe", "--pp", "4", "--microbatches", "8", "--csv", "dualpipe.csv"]) == 0
    assert sum(command.startswith(EXECUTOR) for command in REAL) >= 3
    for command in REAL:
        if command.startswith("parsim "):
            assert run(shlex.split(command)[1:]) == 0, command
        else:
            words = [sys.executable, *shlex.split(command)[1:]]
            done = subprocess.run(words, capture_output=True, text=True, timeout=120)
            assert (done.returncode, done.stderr) == (0, ""), command


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert PYTHON
    for code in PYTHON:
        exec(compile(code, "README.md", "exec"), {})
    assert "MFU" in capsys.readouterr().out


def test_every_room_is_named() -> None:
    rooms = {path.name for path in (Path(__file__).parent.parent / "parsim").iterdir() if path.is_dir()}
    missing = {room for room in rooms - {"__pycache__"} if f"`{room}/`" not in README}
    assert not missing


def test_every_module_of_the_executor_is_named() -> None:
    modules = {path.stem for path in (Path(__file__).parent.parent / "executor").glob("*.py")}
    missing = {name for name in modules if not name.startswith("__") and f"`{name}`" not in README}
    assert not {name for name in missing if not name.endswith(("_command", "errors"))}
