"""Journal: what a search has found so far, in a folder, so that one that was interrupted goes on where it was.

Every finished task is a line of `done.jsonl`; a line that was cut off is done again. The folder belongs to one search:
`search.json` holds its document, and a different one is refused.
"""

import hashlib
import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from parsim.errors import ParsimError, SpecError
from parsim.files import write_all

__all__ = ["Journal"]


class Journal:
    """The journal of the search whose document is `text`, in `folder`; without a folder nothing is kept.

    Raises SpecError where the folder holds another search, ParsimError where it cannot be written.
    """

    def __init__(self, folder: Path | None, text: str) -> None:
        self._done = dict[str, Any]()
        self._file = None
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            named = folder / "search.json"
            if named.exists() and named.read_text() != text:
                raise SpecError(f"{folder} is the journal of another search, or of this one before it was changed")
            write_all({named: text})
            path = folder / "done.jsonl"
            self._read(path)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise ParsimError(f"{folder}: {error.strerror}") from None

    def _read(self, path: Path) -> None:
        if not path.exists():
            return
        whole = b""
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                entry = json.loads(line)
                kept = line.endswith(b"\n") and entry["sum"] == _sum(entry["key"], entry["value"])
            except (ValueError, KeyError, TypeError):
                kept = False
            if kept:
                self._done[entry["key"]] = entry["value"]
                whole += line
        if len(whole) != path.stat().st_size:
            write_all({path: whole})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._done

    def __getitem__(self, key: str) -> Any:
        return self._done[key]

    def put(self, key: str, value: Any) -> None:
        """Keep what a task found; plain JSON values."""
        if self._file is not None:
            self._file.write(json.dumps({"key": key, "value": value, "sum": _sum(key, value)}) + "\n")
            self._file.flush()


def _sum(key: str, value: Any) -> str:
    return hashlib.sha256(json.dumps([key, value]).encode()).hexdigest()[:16]
