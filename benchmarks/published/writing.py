"""Writing: fitted values back into constants.py and the catalogue's files; comments and evidence stay as they are."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from parameters import Parameter, owners

from parsim.cost import constants
from parsim.errors import SpecError
from parsim.spec import catalogue

__all__ = ["changed_files", "with_constant", "with_field"]

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def changed_files(known: Iterable[Parameter], factors: Mapping[str, float]) -> dict[Path, str]:
    """The new text of every file that a factor other than 1 changes. SpecError if a number does not stand there."""
    found: dict[Path, str] = {}

    def change(path: Path, old: str) -> str:
        return found.get(path, old or path.read_text(encoding="utf-8"))

    for parameter in known:
        factor = factors.get(parameter.name, 1.0)
        if abs(factor - 1.0) < 1e-9:
            continue
        if parameter.owner == "constants":
            path = Path(constants.__file__)
            name = parameter.name.partition(".")[2]
            found[path] = with_constant(change(path, ""), name, parameter.value * factor)
            continue
        for path, field in owners(parameter):
            found[path] = with_field(change(path, ""), field, factor)
    return found


def with_constant(text: str, name: str, value: float) -> str:
    """The text of constants.py with another default."""
    new, count = re.subn(
        rf"^(    {name}: float = ){_NUMBER}", lambda m: f"{m[1]}{_decimal(value)}", text, flags=re.MULTILINE
    )
    if count != 1:
        raise SpecError(f"constants.py: {name} stands there {count} times")
    return new


def with_field(text: str, field: str, factor: float) -> str:
    """The text of a catalogue file with a number (`launch_s`, `efficiency.nic`, `efficiency.matmul.bf16`) times a
    factor, in its place."""
    *_, last = path = field.split(".")
    body, mark, evidence = text.partition("\nevidence:")
    where = rf"^(\s*{path[-2]}: \{{[^}}\n]*?\b{last}: )" if len(path) == 3 else rf"^(\s*{last}: )"
    new, count = re.subn(
        rf"{where}({_NUMBER})", lambda m: f"{m[1]}{_spelled(float(m[2]) * factor)}", body, flags=re.MULTILINE
    )
    if count != 1:
        raise SpecError(f"{field} stands {count} times in a file of the {', '.join(catalogue.KINDS[:2])}")
    return new + mark + evidence


def _spelled(value: float) -> str:
    """Three digits, as few signs as they need."""
    return f"{float(f'{value:.3g}'):g}"


def _decimal(value: float) -> str:
    """The same as Python spells a float."""
    text = _spelled(value)
    return text if any(sign in text for sign in ".e") else f"{text}.0"
