"""The command line in this process: what a command printed, and one-line refusals."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from parsim.cli import run

RUN = """\
model: {name: small, layers: 8, hidden: 256, heads: 8, ffn: 1024, vocab: 1024}
cluster: {name: dgx-h100, nodes: 1}
layout:
  mesh: {tp: 2, dp: 2, pp: 2}
  schedule: 1f1b
  micro_batch_size: 1
  recompute: none
  precision: bf16
batch: {sequence_length: 128, global_batch_size: 16}
"""


class Said(NamedTuple):
    """What one command left behind."""

    code: int
    out: str
    err: str


Cli = Callable[..., Said]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in a folder of its own that holds a sound `run.yaml`."""
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(RUN)

    def command(*arguments: object) -> Said:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Said(code, *capsys.readouterr())

    return command


@pytest.fixture
def refused(cli: Cli, tmp_path: Path) -> Callable[[Sequence[object]], str]:
    """The one line with which a command is refused: exit code 2, nothing printed, no file touched."""

    def files() -> dict[str, Any]:
        return {
            str(path.relative_to(tmp_path)): path.read_bytes() if path.is_file() else None
            for path in tmp_path.rglob("*")
        }

    def command(arguments: Sequence[object]) -> str:
        before = files()
        code, out, err = cli(*arguments)
        assert err.startswith("error: "), err
        assert err.count("\n") == 1, err
        assert err.endswith("\n")
        assert "Traceback" not in err
        assert len(err) < 1000, f"{len(err)} characters: {err[:300]}"
        assert code == 2
        assert out == ""
        assert files() == before
        return err

    return command
