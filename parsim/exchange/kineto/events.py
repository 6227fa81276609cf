"""The events of a Chrome trace, one after the other: a file of any size is read piece by piece and never held whole."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from parsim.errors import ParsimError, SpecError

__all__ = ["TraceEvents"]

_PIECE = 2**20
_LONGEST_EVENT = 2**23
_LONGEST_HEADER = 2**24
_ARRAY = re.compile(r'"traceEvents"\s*:\s*\[')


class TraceEvents:
    """Iterates over the events (plain objects) of a file, gzip or not. `header` holds what stands before them, once
    the iteration has begun. Raises SpecError: no trace, cut off in the middle, an event that is no object.
    """

    def __init__(self, path: Path) -> None:
        self.header: Mapping[str, Any] = {}
        self._path = path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            with self._path.open("rb") as raw:
                magic = raw.read(2)
            opened = gzip.open if magic == b"\x1f\x8b" else open
            with opened(self._path, "rt", encoding="utf-8", errors="replace") as stream:
                yield from self._events(stream)
        except FileNotFoundError:
            raise ParsimError(f"{self._path}: no such trace") from None
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise SpecError(f"{self._path}: the compressed file is cut off or damaged") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ParsimError(f"{self._path} cannot be read: {reason.lower()}") from None

    def _events(self, stream: Any) -> Iterator[dict[str, Any]]:
        buffer = self._begin(stream)
        decoder, at, count, ended = json.JSONDecoder(), 0, 0, False
        while True:
            at = _skip(buffer, at)
            if at < len(buffer) and buffer[at] == "]":
                return
            try:
                event, end = decoder.raw_decode(buffer, at)
            except (json.JSONDecodeError, RecursionError) as error:
                if ended:
                    raise SpecError(f"{self._path}: cut off behind event {count}; profile again, or close it") from None
                if len(buffer) - at > _LONGEST_EVENT or isinstance(error, RecursionError):
                    raise SpecError(f"{self._path}: event {count} is no JSON object") from None
                piece = stream.read(_PIECE)
                ended = not piece
                buffer, at = buffer[at:] + piece, 0
                continue
            if end == len(buffer) and not ended:  # a number may go on in the next piece
                piece = stream.read(_PIECE)
                ended = not piece
                buffer, at = buffer[at:] + piece, 0
                continue
            if not isinstance(event, dict):
                raise SpecError(f"{self._path}: event {count} is no JSON object")
            count, at = count + 1, end
            yield event

    def _begin(self, stream: Any) -> str:
        """The text behind the bracket that opens the events; the keys before it are the header."""
        buffer = ""
        while True:
            piece: str = stream.read(_PIECE)
            buffer += piece
            if buffer.lstrip()[:1] == "[":
                return buffer.lstrip()[1:]
            match = _ARRAY.search(buffer)
            if match is not None:
                self.header = _header(buffer[: match.start()])
                return buffer[match.end() :]
            if not piece or len(buffer) > _LONGEST_HEADER or (buffer and buffer.lstrip()[:1] not in ("{", "")):
                raise SpecError(f"{self._path}: not a trace of torch.profiler: no traceEvents in it")


def _skip(buffer: str, at: int) -> int:
    while at < len(buffer) and buffer[at] in " \t\r\n,":
        at += 1
    return at


def _header(text: str) -> Mapping[str, Any]:
    """The keys before the events; none where they cannot be read (older releases wrote no sound JSON there)."""
    try:
        found = json.loads(text.rstrip().rstrip(",") + "}")
    except (json.JSONDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
