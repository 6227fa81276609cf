"""Quantities in a specification: a number in SI, or text with a unit ("80 GiB", "3.35 TB/s", "5 us")."""

from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

from parsim.errors import SpecError
from parsim.units import parse_quantity

__all__ = ["Bytes", "BytesPerSecond", "BytesPerSecondOrNone", "FlopsPerSecond", "Gbps", "Seconds"]


def _reader(unit: str) -> BeforeValidator:
    def read(value: object) -> float:
        try:
            return parse_quantity(value, unit)
        except SpecError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(read)


def _schema(unit: str, example: str, minimum: str) -> WithJsonSchema:
    number = {"type": "number", minimum: 0, "description": f"in {unit}"}
    return WithJsonSchema({"anyOf": [number, {"type": "string", "description": f'with a unit: "{example}"'}]})


Bytes = Annotated[float, Field(gt=0), _reader("bytes"), _schema("bytes", "80 GiB", "exclusiveMinimum")]
BytesPerSecond = Annotated[float, Field(gt=0), _reader("bytes/s"), _schema("bytes/s", "3.35 TB/s", "exclusiveMinimum")]
BytesPerSecondOrNone = Annotated[float, Field(ge=0), _reader("bytes/s"), _schema("bytes/s", "450 GB/s", "minimum")]
"""0 where a GPU has no such link."""
Seconds = Annotated[float, Field(ge=0), _reader("s"), _schema("s", "5 us", "minimum")]
FlopsPerSecond = Annotated[float, Field(gt=0), _reader("FLOP/s"), _schema("FLOP/s", "989 TFLOP/s", "exclusiveMinimum")]
Gbps = Annotated[float, Field(strict=True, gt=0, le=1e6, allow_inf_nan=False)]
"""Gigabits per second as networks are sold: 10**9 bits, one direction."""
