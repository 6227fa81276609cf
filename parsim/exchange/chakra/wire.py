"""Protocol buffers on the wire, as much as Chakra's messages need: varints, doubles, and bytes with a length."""

import struct
from collections.abc import Iterable

__all__ = ["delimited", "double", "integer", "number", "packed", "text", "varint"]


def varint(value: int) -> bytes:
    """A whole number in groups of seven bits, the lowest first; a negative one as its 64-bit complement."""
    value &= (1 << 64) - 1
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _tag(field: int, kind: int) -> bytes:
    return varint(field << 3 | kind)


def integer(field: int, value: int) -> bytes:
    """A field of type int32, int64, uint64, bool or enum."""
    return _tag(field, 0) + varint(value)


def number(field: int, value: int) -> bytes:
    """A field of a whole number that is left out where it is 0, its default."""
    return integer(field, value) if value else b""


def double(field: int, value: float) -> bytes:
    """A field of type double."""
    return _tag(field, 1) + struct.pack("<d", value)


def delimited(field: int, content: bytes) -> bytes:
    """A field that holds a message, or bytes."""
    return _tag(field, 2) + varint(len(content)) + content


def text(field: int, value: str) -> bytes:
    """A field of type string."""
    return delimited(field, value.encode(errors="replace"))


def packed(field: int, values: Iterable[int]) -> bytes:
    """A repeated field of whole numbers; no bytes where there are none."""
    content = b"".join(map(varint, values))
    return delimited(field, content) if content else b""
