"""Files of users: read with one clear line when something is wrong, written whole or not at all."""

import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from parsim.errors import ParsimError, SpecError

__all__ = ["check_writable", "parse_json_text", "read_text", "write_all"]

_LARGEST_TEXT = 256 * 2**20


def read_text(path: Path, what: str = "file") -> str:
    """The text of a user's file (UTF-8). Raises ParsimError: missing, a directory, unreadable, not text, too large."""
    try:
        if path.is_dir():
            raise ParsimError(f"{path} is a directory, not a {what}")
        with path.open("rb") as stream:
            data = stream.read(_LARGEST_TEXT + 1)  # a device may never end
        if len(data) > _LARGEST_TEXT:
            raise ParsimError(f"{path}: a {what} has at most {_LARGEST_TEXT // 2**20} MiB")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise ParsimError(f"{path}: no such {what}") from None
    except UnicodeDecodeError as error:
        raise ParsimError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except (OSError, ValueError) as error:
        raise ParsimError(f"{path} cannot be read: {_reason(error)}") from None


def parse_json_text(text: str) -> object:
    """The plain values of a JSON text. Raises SpecError with the place, also for absurd nesting or digits."""
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise SpecError(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except (RecursionError, ValueError):
        raise SpecError("not JSON that can be read: nested too deeply, or a number of absurd length") from None


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise SpecError(f"not JSON that can be read: {text[:40]} is not a finite number")
    return value


def check_writable(paths: Iterable[Path]) -> None:
    """Refuse before any work is done what could not be written after it, and one file named for two outputs."""
    seen: set[str] = set()
    for path in paths:
        try:
            if path.is_dir():
                raise ParsimError(f"{path} is a directory; name a file in it")
            folder = path.absolute().parent
            if not folder.is_dir():
                raise ParsimError(f"{path} cannot be written: {folder} is not a directory")
            # A file is replaced by a new one beside it; a device (/dev/stdout) is written to where it is.
            replaced = path.is_file() or not path.exists()
            if (path.exists() and not os.access(path, os.W_OK)) or (replaced and not os.access(folder, os.W_OK)):
                raise ParsimError(f"{path} cannot be written: no permission")
        except (OSError, ValueError) as error:
            raise ParsimError(f"{path} cannot be written: {_reason(error)}") from None
        if (real := os.path.realpath(path)) in seen:
            raise ParsimError(f"{path} is named for two outputs")
        seen.add(real)


def write_all(contents: Mapping[Path, str | bytes]) -> None:
    """Write every file, each whole or not at all: all are staged beside their targets before the first is moved.

    Text is written as UTF-8, half a surrogate pair as JSON spells it. Raises ParsimError with the path that failed; no
    partial file stays behind.
    """
    staged: dict[Path, Path] = {}
    current = Path()
    try:
        for current, content in contents.items():
            staged[current] = _stage(current, content)
        for current, temporary in list(staged.items()):
            # A device or pipe (/dev/stdout, /dev/null) cannot be replaced, only written to.
            if current.exists() and not current.is_file():
                current.write_bytes(temporary.read_bytes())
            else:
                os.replace(temporary, current.resolve())
                del staged[current]
    except OSError as error:
        raise ParsimError(f"{current} cannot be written: {_reason(error)}") from None
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)


def _stage(path: Path, content: str | bytes) -> Path:
    folder = path.resolve().parent
    if path.exists() and not path.is_file():
        folder = Path(tempfile.gettempdir())
    handle, name = tempfile.mkstemp(dir=folder, prefix=".parsim-", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
        mode = path.stat().st_mode & 0o777 if path.is_file() else 0o666 & ~_umask()
        temporary.chmod(mode)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _reason(error: OSError | ValueError) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
