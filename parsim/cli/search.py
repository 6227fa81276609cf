"""`parsim search`: a search file in, the best layouts out, with a certificate and a reason for every rejection."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parsim.cli.options import Html, Json
from parsim.cli.output import Outputs, json_text
from parsim.errors import ParsimError, SpecError

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["parse_budget", "search"]

_UNITS_S = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "": 1.0}


def search(
    what: Annotated[str, typer.Argument(metavar="SEARCH", help="A YAML file, or a name of `parsim list searches`.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field, e.g. space.tp=8.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many layouts to list.")] = 10,
    jobs: Annotated[
        int | None,
        typer.Option(help="Processes that work (default: all cores; the result is the same for any number)."),
    ] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Work on a Dask cluster instead (extra [dask]).")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="60s", help="Stop after so long, and say what gap is left.")
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep what is found there; an interrupted search goes on.")
    ] = None,
    contention: Annotated[
        int, typer.Option(help="How many of the first layouts SimPy plays with contention, to find the best of them.")
    ] = 3,
    jitter: Annotated[
        str | None,
        typer.Option(metavar="lognormal:SIGMA", help="Also rank the list with jitter on every op: p50, p95 of steps."),
    ] = None,
    explain: Annotated[
        str | None, typer.Option(metavar="tp=16,pp=1", help="Why such layouts are out, or how far behind the best is.")
    ] = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Also search with more memory, faster links and one more node.")
    ] = False,
    html: Html = None,
    json: Json = None,
) -> None:
    """Find the best layouts of a model on a cluster.

    Judges every layout of the space, plays what no bound rules out, and proves the best. Prints the list, what each
    rule removed, and for families of which nothing is left the rule and the nearest that would do.
    """
    from parsim.search import planner
    from parsim.search.explain import explain as explained
    from parsim.search.sensitivity import sensitivity_of
    from parsim.sim import parse_jitter
    from parsim.spec import load_search

    outputs = Outputs(html=html, json=json)
    changed = tuple(overrides or ())
    loaded = load_search(what, changed)
    if contention < 0:
        raise SpecError(f"--contention {contention}: 0 or more")
    conditions = None if explain is None else _conditions(explain)
    sigma = 0.0 if jitter is None else parse_jitter(jitter)
    budget_s = None if budget is None else parse_budget(budget)
    with _executor(dask) as executor:
        workers: dict[str, Any] = {"jobs": jobs, "executor": executor, "budget_s": budget_s}
        told = _teller()
        asked: dict[str, Any] = {"top": top, "contention": contention, "jitter": sigma}
        result = planner.search(loaded, journal=journal, progress=told, **asked, **workers)
        told("", 0, 0, None)
        document = result.document()
        if conditions is not None:
            smaller = load_search(what, (*changed, *(f"space.{name}={value}" for name, value in conditions)))
            document["explanation"] = explained(result, smaller, conditions, **workers)
        if sensitivity:
            document["sensitivity"] = sensitivity_of(result, **workers)
    if outputs.wants("json"):
        outputs.put("json", json_text(document))
    if outputs.wants("html"):
        from parsim.report.search_page import search_page

        plans = [(result.entry(entry), played.timeline) for entry, played in result.plans(3)]
        outputs.put("html", search_page(document, plans))
    outputs.write()
    if not outputs.quiet:
        from parsim.report.search_table import print_search

        print_search(document)


def _conditions(text: str) -> list[tuple[str, str]]:
    """`tp=16,pp=1` as pairs. SpecError unless every item is FIELD=VALUE of the space."""
    from parsim.spec import Space

    found = []
    for item in text.split(","):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not value or name not in Space.model_fields:
            known = ", ".join(Space.model_fields)
            raise SpecError(f"--explain {item.strip()[:60]!r}: write FIELD=VALUE, fields are {known}")
        found.append((name, value))
    return found


def parse_budget(text: str) -> float:
    """Seconds of `60s`, `5m`, `1.5h` or a plain number. SpecError for anything else."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*(s|m|min|h|)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise SpecError(f"--budget {text[:40]!r}: write a time above 0 such as 60s, 5m or 1h")
    return float(match[1]) * _UNITS_S[match[2]]


@contextmanager
def _executor(address: str | None) -> "Iterator[Executor | None]":
    """A Dask cluster's executor, or none: the planner makes its own processes. ParsimError where Dask is not installed
    or nobody answers.
    """
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError:
        raise ParsimError("--dask needs the extra [dask]: pip install 'parsim-train[dask]'") from None
    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise ParsimError(f"--dask {address}: {error}") from None
    try:
        yield client.get_executor()
    finally:
        client.close()


def _teller() -> Callable[[str, int, int, float | None], None]:
    """Progress on a terminal, a line that overwrites itself; nothing anywhere else."""
    started, width = time.monotonic(), 0

    def tell(phase: str, done: int, total: int, best_s: float | None) -> None:
        nonlocal width
        if not sys.stderr.isatty():
            return
        left = (time.monotonic() - started) * (total - done) / done if done else 0.0
        best = "" if best_s is None else f", best {best_s:.3f} s"
        line = f"{phase} {done:,} of at most {total:,}{best}, {left:.0f} s left at most" if total else ""
        sys.stderr.write("\r" + line.ljust(width) + ("" if line else "\r"))
        sys.stderr.flush()
        width = len(line)

    return tell
