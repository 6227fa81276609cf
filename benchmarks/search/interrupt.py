"""Killed and resumed: `parsim search` as a process, ended at random moments, says the same as one that nobody ended.

    python benchmarks/search/interrupt.py                 20 kills of a search of small.yaml
    python benchmarks/search/interrupt.py --kills 5 --search FILE

A kill is SIGKILL: the process has no time to tidy up. Each start goes on from the journal of those before it and is
ended after a random part of the time that an undisturbed search takes; the last one is left alone. Compared are the
bytes of `--json`, apart from `run_info`.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

__all__ = ["SMALL", "Interrupted", "interrupted"]

SMALL = Path(__file__).parent / "small.yaml"
_DEADLINE_S = 300.0
_GONE_S = 30.0


class Interrupted(NamedTuple):
    """How often a search was killed before it was through, how many tasks were kept then, whether all was the same."""

    kills: int
    tasks_kept: tuple[int, ...]
    same: bool


def interrupted(search: Path, kills: int, seed: int, deadline_s: float = _DEADLINE_S) -> Interrupted:
    """A search killed so often and then left to end, beside one that was left alone."""
    draw = random.Random(seed)
    kept = []
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        started = time.monotonic()
        whole = _answer(search, here / "whole", deadline_s)
        lasted = time.monotonic() - started
        done = 0
        while done < kills:
            journal = here / f"journal-{done}"  # a search that ends before its kill leaves nothing to go on from
            while done < kills and _killed(search, journal, draw.uniform(0.2, 0.7) * lasted):
                done += 1
                kept.append(_tasks(journal))
            if _answer(search, journal, deadline_s) != whole:
                return Interrupted(done, tuple(kept), False)
    return Interrupted(done, tuple(kept), True)


def _command(search: Path, journal: Path) -> list[str]:
    main = "from parsim.cli import main; main()"
    return [sys.executable, "-c", main, "search", str(search), "--jobs", "2", "--journal", str(journal), "--json", "-"]


def _answer(search: Path, journal: Path, deadline_s: float) -> str:
    done = subprocess.run(
        _command(search, journal),
        capture_output=True,
        text=True,
        check=True,
        timeout=deadline_s,
        stdin=subprocess.DEVNULL,
    )
    document = json.loads(done.stdout)
    document.pop("run_info")
    return json.dumps(document)


def _killed(search: Path, journal: Path, after_s: float) -> bool:
    """Start a search and kill it; False if it was through before."""
    quiet = subprocess.DEVNULL
    command = _command(search, journal)
    with subprocess.Popen(
        command, stdin=quiet, stdout=quiet, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            try:
                process.communicate(timeout=_GONE_S)  # until its workers, who inherit the pipe, are gone too
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
            return True
    return False


def _tasks(journal: Path) -> int:
    path = journal / "done.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--search", type=Path, default=SMALL)
    options = parser.parse_args()
    found = interrupted(options.search, options.kills, options.seed)
    print(f"killed {found.kills} times, the journal held {found.tasks_kept} tasks then; the same: {found.same}")
    sys.exit(not found.same)


if __name__ == "__main__":
    main()
