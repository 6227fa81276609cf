"""Where results go: JSON to a file or to standard output, other documents to files, tables to the terminal."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parsim.errors import ParsimError
from parsim.files import check_writable, write_all

__all__ = ["STDOUT", "Outputs", "json_text"]

STDOUT = Path("-")


def json_text(document: Mapping[str, Any]) -> str:
    """Stable JSON: keys in the order the document gives them, no NaN, the same bytes for the same values."""
    try:
        return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError:
        raise ParsimError("a number of the result is too large to be written as JSON; are the inputs in SI?") from None


class Outputs:
    """The files one command was asked for. Refuses unwritable ones before the work, writes all of them after it."""

    def __init__(self, **paths: Path | None) -> None:
        self._paths = {name: path for name, path in paths.items() if path is not None}
        check_writable(path for name, path in self._paths.items() if not (name == "json" and path == STDOUT))
        self._contents: dict[Path, str | bytes] = {}
        self._printed = ""

    def wants(self, name: str) -> bool:
        """Whether the user asked for this output."""
        return name in self._paths

    @property
    def quiet(self) -> bool:
        """Whether standard output belongs to JSON, so that no table may be printed."""
        return self._paths.get("json") == STDOUT

    def put(self, name: str, content: str | bytes) -> None:
        """Hold the content of a wanted output until `write`."""
        if name == "json" and self.quiet:
            self._printed = str(content)
        else:
            self._contents[self._paths[name]] = content

    def write(self) -> None:
        """Write what was put."""
        write_all(self._contents)
        if self._printed:
            _print_json(self._printed)


def _print_json(text: str) -> None:
    """JSON is UTF-8 whatever the terminal speaks; half a surrogate pair in a name is spelled as JSON spells it."""
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:
        sys.stdout.write(text)
    else:
        sys.stdout.flush()
        binary.write(text.encode(errors="backslashreplace"))
