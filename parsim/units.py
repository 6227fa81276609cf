"""Quantities with units, read once at the edge; inside the code only SI: s, bytes, bytes/s, FLOP, FLOP/s.

"80 GiB" and "80 GB" differ (2**30 and 10**9), "400 Gb/s" is bits and "50 GB/s" bytes. A bare number is
taken to be in SI already.
"""

import math
import re

from parsim.errors import SpecError

__all__ = ["format_bytes", "format_seconds", "parse_quantity"]

_SI = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_TIME = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0}

_UNITS: dict[str, dict[str, float]] = {
    "bytes": {"B": 1.0, "bytes": 1.0, "KB": 1e3} | {f"{p}B": f for p, f in (_SI | _BINARY).items() if p},
    "bytes/s": {"B/s": 1.0}
    | {f"{p}B/s": f for p, f in (_SI | _BINARY).items() if p}
    | {f"{p}b{per}": f / 8 for p, f in _SI.items() for per in ("/s", "ps", "it/s")},
    "s": _TIME,
    "FLOP/s": {f"{p}{u}": f for p, f in _SI.items() for u in ("FLOP/s", "FLOPS", "FLOPs", "FLOPs/s")},
    "FLOP": {f"{p}FLOP": f for p, f in _SI.items()},
}

_QUANTITY = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\d\s].*?)?\s*\Z")


def parse_quantity(value: object, unit: str) -> float:
    """A finite number >= 0 in the SI unit `unit` ("bytes", "bytes/s", "s", "FLOP/s", "FLOP").

    Takes a bare number (already SI) or text with a unit. Raises SpecError for text that is not a number, an
    unknown unit, or a value that is negative, infinite or not a number.
    """
    known = _UNITS[unit]
    if isinstance(value, int | float) and not isinstance(value, bool):
        number, factor = float(value) if abs(value) < 1e300 else math.inf, 1.0
    elif isinstance(value, str):
        match = _QUANTITY.match(value)
        if match is None:
            raise SpecError(f"{value!r} is not a quantity in {unit}; write for example {_example(unit)!r}")
        number, suffix = float(match[1].replace("_", "")), match[2]
        if suffix is not None and suffix not in known:
            raise SpecError(f"{value!r}: unit {suffix!r} is not one of {unit}; write for example {_example(unit)!r}")
        factor = 1.0 if suffix is None else known[suffix]
    else:
        raise SpecError(f"{value!r} is not a quantity in {unit}; write for example {_example(unit)!r}")
    result = number * factor
    if not math.isfinite(result) or result < 0:
        raise SpecError(f"{value!r}: a quantity in {unit} must be finite and not negative")
    return result


def _example(unit: str) -> str:
    examples = {
        "bytes": "80 GiB",
        "bytes/s": "3.35 TB/s",
        "s": "5 us",
        "FLOP/s": "989 TFLOP/s",
        "FLOP": "1 TFLOP",
    }
    return examples[unit]


def format_bytes(size: float) -> str:
    """Bytes as a person reads them: binary units, three significant digits ("76.3 GiB")."""
    for factor, unit in ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB")):
        if abs(size) >= factor:
            return f"{size / factor:.3g} {unit}" if abs(size) < 999.5 * factor else f"{size / factor:.0f} {unit}"
    return f"{size:.0f} B"


def format_seconds(time_s: float) -> str:
    """Seconds as a person reads them: three or four significant digits ("5.21 s", "38.4 ms", "12 us")."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")):
        if abs(time_s) >= factor:
            return f"{time_s / factor:.4g} {unit}"
    return f"{time_s:.4g} s"
