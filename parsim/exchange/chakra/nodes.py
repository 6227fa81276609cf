"""A node of a Chakra execution trace, and the file that holds a rank's nodes.

Field numbers and enumerations are those of Chakra's schema (github.com/mlcommons/chakra, schema/protobuf/et_def.proto):
a file is a GlobalMetadata and then Nodes, each behind its length as a varint. Attributes have the names and types that
ASTRA-sim's feeder reads.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from parsim.exchange.chakra.wire import delimited, double, integer, number, packed, text, varint

__all__ = ["COLLECTIVES", "Attribute", "Node", "NodeType", "trace_bytes"]

NodeType = Literal["compute", "send", "receive", "collective"]
_TYPES: Mapping[NodeType, int] = {"compute": 4, "send": 5, "receive": 6, "collective": 7}
COLLECTIVES = {"all_reduce": 0, "all_gather": 2, "broadcast": 5, "all_to_all": 6, "reduce_scatter": 7}
"""CollectiveCommType of parsim's collectives."""
_VERSION = "0.0.4"  # of the schema, as its own tools write it
_VALUES = {"double": 3, "int32": 7, "int64": 9, "uint64": 13, "bool": 27, "string": 29}
"""The field of AttributeProto's `value` that holds a value of a type."""


@dataclass(frozen=True)
class Attribute:
    """A named value of a node; `type` is one of _VALUES."""

    name: str
    type: str
    value: float | int | str | bool

    def encoded(self) -> bytes:
        """As an AttributeProto."""
        field_number = _VALUES[self.type]
        if self.type == "double":
            value = double(field_number, float(self.value))
        elif self.type == "string":
            value = text(field_number, str(self.value))
        else:
            value = integer(field_number, int(self.value))
        return text(1, self.name) + value


@dataclass(frozen=True)
class Node:
    """Something that a rank does once the nodes in `needs` have ended. `seconds` is what parsim expects it to take."""

    number: int
    name: str
    type: NodeType
    needs: tuple[int, ...]
    seconds: float
    attributes: tuple[Attribute, ...] = field(default=())

    def encoded(self) -> bytes:
        """As a Node message. Its microseconds are whole; the attribute `seconds` has the rest."""
        exact = Attribute("seconds", "double", self.seconds)
        return b"".join(
            (
                number(1, self.number),
                text(2, self.name),
                integer(3, _TYPES[self.type]),
                packed(5, self.needs),
                number(7, round(self.seconds * 1e6)),
                *(delimited(10, attribute.encoded()) for attribute in (*self.attributes, exact)),
            )
        )


def trace_bytes(nodes: Iterable[Node], attributes: Iterable[Attribute] = ()) -> bytes:
    """The file of a rank: metadata with these attributes, then the nodes."""
    metadata = text(1, _VERSION) + b"".join(delimited(2, attribute.encoded()) for attribute in attributes)
    messages = (metadata, *(node.encoded() for node in nodes))
    return b"".join(varint(len(message)) + message for message in messages)
