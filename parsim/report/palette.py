"""The palette: a colour for each kind of op, shades for local stages, and a scale for ranks.

F is blue and the backwards green, as in the papers: B a full green, and its two halves a cyan (I) and a yellow-green
(W). The set was chosen so that all of it, light shades too, stays apart for colour-blind readers; a test keeps it so.
"""

from parsim.plan.op import Kind

__all__ = ["GRID", "IDLE", "INK", "MEANING", "MUTED", "colour", "ink_on", "rank_colour"]

INK = "#1f2933"
MUTED = "#66717e"
GRID = "#e4e7eb"
IDLE = "#eceef2"

_DARK_AND_LIGHT: dict[Kind, tuple[str, str]] = {
    Kind.F: ("#2458a6", "#8e9eec"),
    Kind.B: ("#2c8a5f", "#93cfa0"),
    Kind.I: ("#45bdb8", "#bdeef0"),
    Kind.W: ("#c2c81e", "#eeeb9b"),
    Kind.SEND_F: ("#7f8894", "#7f8894"),
    Kind.RECV_F: ("#a9b0ba", "#a9b0ba"),
    Kind.SEND_B: ("#7f8894", "#7f8894"),
    Kind.RECV_B: ("#a9b0ba", "#a9b0ba"),
    Kind.UNSHARD: ("#e0a458", "#e0a458"),
    Kind.RESHARD: ("#efcf9f", "#efcf9f"),
    Kind.REDUCE_GRAD: ("#d9732b", "#d9732b"),
    Kind.OFFLOAD: ("#8b6bb1", "#8b6bb1"),
    Kind.RELOAD: ("#b8a2d1", "#b8a2d1"),
    Kind.STEP: ("#565d66", "#565d66"),
}

MEANING: dict[Kind, str] = {
    Kind.F: "F = forward",
    Kind.B: "B = I + W in one (full backward)",
    Kind.I: "I = input gradient",
    Kind.W: "W = weight gradient",
    Kind.SEND_F: "send activations",
    Kind.RECV_F: "receive activations",
    Kind.SEND_B: "send gradients",
    Kind.RECV_B: "receive gradients",
    Kind.UNSHARD: "gather weights",
    Kind.RESHARD: "free gathered weights",
    Kind.REDUCE_GRAD: "reduce gradients",
    Kind.OFFLOAD: "offload",
    Kind.RELOAD: "reload",
    Kind.STEP: "optimizer step",
}
"""The legend: what each letter stands for, with the convention of B spelled out."""

_RANKS = ("#3b0f70", "#7a2a8c", "#b63679", "#e0524e", "#f08a3c", "#d4a90c")  # dark to light, no greens or blues


def colour(kind: Kind, level: int = 0, levels: int = 1) -> str:
    """The colour of `kind` on local stage `level` of `levels`: the first stage darkest, as Megatron draws it."""
    dark, light = _DARK_AND_LIGHT[kind]
    return _mix(dark, light, level / (levels - 1) if levels > 1 else 0.0)


def rank_colour(rank: int, ranks: int) -> str:
    """The colour of a rank's memory curve, dark for rank 0 to light for the last."""
    place = rank / (ranks - 1) * (len(_RANKS) - 1) if ranks > 1 else 0.0
    index = min(int(place), len(_RANKS) - 2)
    return _mix(_RANKS[index], _RANKS[index + 1], place - index)


def ink_on(background: str) -> str:
    """White or dark text, whichever contrasts more with the background (WCAG relative luminance)."""
    channels = (value / 255 for value in _rgb(background))
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#ffffff" if luminance < 0.24 else "#14202b"


def _rgb(text: str) -> tuple[int, int, int]:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _mix(a: str, b: str, share: float) -> str:
    return "#" + "".join(f"{round(x + (y - x) * share):02x}" for x, y in zip(_rgb(a), _rgb(b), strict=True))
