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
    a, b = _read(a_path), _read(b_path)
    comparison = compare(a, b)
    document = comparison.document()
    if outputs.wants("json"):
        outputs.put("json", json_text(document))
    if outputs.wants("html"):
        if not (isinstance(a, Timeline) and isinstance(b, Timeline)):
            raise SpecError("--html draws two timelines (parsim simulate --timeline); results have no ops to draw")
        from parsim.report import compare_page

        outputs.put("html", compare_page(a, b, document, labels=(a_path.name, b_path.name)))
    outputs.write()
    if not outputs.quiet:
        from parsim.report import print_comparison

        print_comparison(document, labels=(a_path.name, b_path.name))


def _read(path: Path) -> Timeline | dict[str, object]:
    text = read_text(path, "JSON file")
    try:
        return parse_recording(text)
    except ParsimError as error:
        raise SpecError(f"{path}: {error}") from None
