"""`parsim compare`: two recordings or two results, and what explains their difference."""

from pathlib import Path

from parsim.cli.output import Outputs, json_text
from parsim.comparison import compare, parse_recording
from parsim.errors import ParsimError, SpecError
from parsim.files import read_text
from parsim.timeline import Timeline

__all__ = ["compare_command"]


def compare_command(a_path: Path, b_path: Path, **paths: Path | None) -> None:
    """Read both, compare, print the causes, write what was asked for."""
    outputs = Outputs(**paths)
    a, b, labels = _read(a_path), _read(b_path), _labels(a_path, b_path)
    comparison = compare(a, b)
    document = comparison.document()
    if outputs.wants("json"):
        outputs.put("json", json_text(document))
    if outputs.wants("html"):
        if not (isinstance(a, Timeline) and isinstance(b, Timeline)):
            raise SpecError("--html draws two timelines (parsim simulate --timeline); results have no ops to draw")
        from parsim.report import compare_page

        outputs.put("html", compare_page(a, b, document, labels=labels))
    outputs.write()
    if not outputs.quiet:
        from parsim.report import print_comparison

        print_comparison(document, labels=labels)


def _labels(a: Path, b: Path) -> tuple[str, str]:
    """What tells the two apart: their names, or the paths as given."""
    if a.name != b.name:
        return a.name, b.name
    return (str(a), str(b)) if a != b else (f"{a.name} (first)", f"{b.name} (second)")


def _read(path: Path) -> Timeline | dict[str, object]:
    text = read_text(path, "JSON file")
    try:
        return parse_recording(text)
    except ParsimError as error:
        raise SpecError(f"{path}: {error}") from None
