"""Split: how many layers each part of a model gets.

"even", "ends_one_fewer", "balanced", a list of layers per part, or Megatron's layout string, in which E is the
embedding, t a layer, m an MTP layer, L the loss and | a border between parts: "Et*3|(tt|)*29m|L".
"""

import re
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from parsim.errors import LayoutError

__all__ = ["SPLITS", "Split", "layers_in_string", "layers_of_parts"]

SPLITS = ("even", "ends_one_fewer", "balanced")
_LONGEST = 100_000  # parts, or characters of a Megatron string once its repetitions are written out
_LONGEST_LIST = 120  # characters of a list of layers in an error
_REPEATED = re.compile(r"(?:\(([^()]*)\)|([EtmL|]))\*(\d{1,6})")


def _read(value: Any) -> str | tuple[int, ...]:
    if isinstance(value, str):
        if value in SPLITS:
            return value
        if "|" in value or set(value) <= set("EtmL|()*,0123456789 "):
            _spelled(value)
            return value
        raise ValueError(f"write {', '.join(SPLITS)}, a list of layers per part, or a string such as 'Et*3|t*4|t*3L'")
    if isinstance(value, list | tuple):
        if not 1 <= len(value) <= _LONGEST:
            raise ValueError(f"a list names the layers of 1 to {_LONGEST} parts")
        for part, layers in enumerate(value):
            if type(layers) is not int or not 0 <= layers <= _LONGEST:
                raise ValueError(f"part {part} has {layers!r} layers; a whole number from 0 on would do")
        return tuple(value)
    raise ValueError(f"write {', '.join(SPLITS)}, a list of layers per part, or a Megatron string")


Split = Annotated[
    str | tuple[int, ...],
    PlainValidator(_read),
    PlainSerializer(lambda split: split),  # else pydantic serialises a tuple twice, and warns of its own list
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(SPLITS)},
                {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
                {"type": "string", "pattern": r"^[EtmL|()*,0-9 ]+$", "description": "Megatron's layout string"},
            ]
        }
    ),
]


def layers_of_parts(split: str | tuple[int, ...], layers: int, parts: int) -> tuple[int, ...]:
    """Layers of each of `parts` parts; they sum to `layers`. Raises LayoutError with what would do.

    - even: layers / parts each.
    - ends_one_fewer: embedding and loss count as a layer each; (layers + 2) / parts, one fewer on both ends
      (Llama 3, 2407.21783 section 3.3.2).
    - balanced: counts differ by at most one, and the ends have the smaller one where possible.
    """
    if split == "even":
        if layers % parts:
            ends = (
                f"ends_one_fewer ({(layers + 2) // parts} a part) or " if (layers + 2) % parts == 0 < parts - 1 else ""
            )
            rule = f"layout.split even: {layers} layers do not divide into {parts} parts"
            raise LayoutError(f"{rule}; {ends}{_balanced(layers, parts)} would do")
        return (layers // parts,) * parts
    if split == "ends_one_fewer":
        each, rest = divmod(layers + 2, parts)
        if rest or parts < 2:
            rule = f"layout.split ends_one_fewer: {layers} layers and two ends do not divide into {parts} parts"
            raise LayoutError(f"{rule}; {_balanced(layers, parts)} would do")
        return (each - 1, *(each,) * (parts - 2), each - 1)
    if split == "balanced":
        each, extra = divmod(layers, parts)
        inner = min(extra, max(parts - 2, 0))
        first, last = int(extra > inner), int(extra > inner + 1)
        if parts == 1:
            return (layers,)
        return (each + first, *(each + (part < inner) for part in range(parts - 2)), each + last)
    counts = layers_in_string(split) if isinstance(split, str) else split
    if len(counts) != parts:
        raise LayoutError(f"layout.split names {len(counts)} parts, the schedule has {parts}; name {parts}")
    if sum(counts) != layers:
        raise LayoutError(f"layout.split places {sum(counts)} layers, the model has {layers}")
    return counts


def layers_in_string(text: str) -> tuple[int, ...]:
    """Layers of each part that a Megatron string names; ValueError if it breaks the grammar."""
    return tuple(part.count("t") for part in _spelled(text).split("|"))


def _spelled(text: str) -> str:
    """A Megatron string with its repetitions written out; ValueError if it breaks that grammar."""
    plain = text.replace(",", "").replace(" ", "")
    while (match := _REPEATED.search(plain)) is not None:
        inner, times = match[1] if match[1] is not None else match[2], int(match[3])
        if len(plain) + len(inner) * times > _LONGEST:
            raise ValueError(f"{text!r} spells more than {_LONGEST} signs")
        plain = plain[: match.start()] + inner * times + plain[match.end() :]
    if stray := set(plain) - set("EtmL|"):
        raise ValueError(f"{text!r}: {sorted(stray)[0]!r} has no meaning here; signs are E t m L | and x*3 or (xy)*3")
    parts = plain.split("|")
    if plain.count("E") != 1 or not parts[0].startswith("E"):
        raise ValueError(f"{text!r}: the embedding E stands once, at the beginning")
    if plain.count("L") != 1 or not parts[-1].endswith("L"):
        raise ValueError(f"{text!r}: the loss L stands once, at the end")
    if "m" in "".join(parts[:-1]) or "mt" in plain:
        raise ValueError(f"{text!r}: MTP layers m stand in the last part, behind its layers")
    return plain


def _balanced(layers: int, parts: int) -> str:
    counts = str(list(layers_of_parts("balanced", layers, parts)))
    return f"balanced, which is {counts}," if len(counts) <= _LONGEST_LIST else "balanced"
