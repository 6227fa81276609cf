"""Recordings to draw: schedules of the project played at unit costs by a small longest path of the tests' own."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from parsim.cost.unit import UnitCost
from parsim.plan import Kind, Op, add_gradient_reduction, add_optimizer_step, levels, needs
from parsim.schedules import build
from parsim.timeline import MemorySample, Span, Timeline

GIB = 2.0**30


def play(name: str, pp: int, m: int, v: int | None = None, *, unit: float = 1.0, memory: bool = False) -> Timeline:
    """The schedule played at unit costs times `unit`, with made-up states and 1 GiB a stage-activation."""
    plan = add_optimizer_step(add_gradient_reduction(build(name, pp, m, v)))
    cost, present = UnitCost(), {op: rank for rank, op in plan.ops()}
    ends: dict[Op, float] = {}
    free = [0.0] * pp
    spans = []
    for rank, index in (place for level in levels(plan) for place in level):
        slot = plan.orders[rank][index]
        wanted = [n for op in slot.ops for n in needs(op, plan.placement, present, plan.microbatches_per_chain)]
        start = max([free[rank], *(ends[need] for need in wanted)])
        end = start + (cost.seconds(slot) or 0.5) * unit
        for op, other in zip(slot.ops, reversed(slot.ops), strict=True):
            stream = "collective" if op.kind is Kind.REDUCE_GRAD and unit != 1.0 else "compute"
            detail = {"pair": str(other)} if slot.second else {}
            spans.append(Span(rank, stream, op, start, end, start - free[rank], detail))
            ends[op] = end
        free[rank] = end
    spans.sort(key=lambda span: (span.rank, span.start_s))
    return Timeline(pp, tuple(spans), tuple(_memory(spans)) if memory else ())


def _memory(spans: list[Span]) -> list[MemorySample]:
    samples, held = [], dict.fromkeys((span.rank for span in spans), 0)
    for span in spans:
        states = {"parameters": 12 * GIB, "gradients": 6 * GIB, "optimizer": 18.5 * GIB, "reserve": 0.0}
        held[span.rank] += span.op.kind is Kind.F
        after = held[span.rank] - (span.op.kind in (Kind.B, Kind.W))
        for time, count, scratch in ((span.start_s, held[span.rank], 0.6), (span.end_s, after, 0.0)):
            kinds = {**states, "activations": count * 1.5 * GIB, "temporaries": scratch * GIB}
            samples.append(MemorySample(span.rank, time, kinds))
        held[span.rank] = after
    return samples


@pytest.fixture(scope="session")
def played() -> Callable[..., Timeline]:
    return play


class Browser:
    """Headless Chromium: what a page has become after its scripts ran, what it looks like, what it complained of."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program, self.folder = program, folder

    def run(self, html: str, *options: str, name: str = "page", width: int = 1400, height: int = 1000) -> str:
        """Open the page; its DOM (with --dump-dom) on standard output. Console messages are asserted to be absent."""
        page = self.folder / f"{name}.html"
        page.write_text(html, encoding="utf-8")
        profile = self.folder / "profile"
        flags = [
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--enable-logging=stderr", f"--user-data-dir={profile}", f"--window-size={width},{height}"),
        ]
        done = subprocess.run(
            [self.program, *flags, *options, str(page)],
            capture_output=True,
            text=True,
            timeout=120,
        )
        complaints = [line for line in done.stderr.splitlines() if re.search(r":CONSOLE[:(]", line)]
        assert not complaints, complaints
        return done.stdout

    def dom(self, html: str, **size: int) -> str:
        return self.run(html, "--dump-dom", "--virtual-time-budget=20000", **size)

    def screenshot(self, html: str, *, name: str = "page", width: int = 1400, height: int = 1000) -> bytes:
        picture = self.folder / f"{name}.png"
        options = (f"--screenshot={picture}", "--virtual-time-budget=20000")
        self.run(html, *options, name=name, width=width, height=height)
        return picture.read_bytes()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    program = os.environ.get("PARSIM_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here: set PARSIM_CHROMIUM to its path")
    return Browser(program, tmp_path_factory.mktemp("chromium"))
