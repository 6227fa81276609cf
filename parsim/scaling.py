"""Scaling laws: how many tokens a model of N parameters should see, and what that takes at C = 6 N D.

    kaplan      D = 5,000 N^0.74     Kaplan et al. 2020 (2001.08361), section 4.4: tokens below which a model of N
                                     parameters (without embeddings) overfits; eight times the parameters, 8^0.74 =
                                     4.66 times the tokens
    chinchilla  D = 20 N             Hoffmann et al. 2022 (2203.15556), approaches 1 and 2 and table 3: N and D grow
                                     alike with C, about 20 tokens a parameter

C = 6 N D (2001.08361, section 2.1): a multiply-add is 2 FLOP, backward twice forward, attention not counted. Both laws
answer in either direction: from N, or from C. Kaplan's compute-efficient frontier, which stops training far from
convergence, stands beside them: N = 1.3e9 (C in PF-days)^0.73 (2001.08361, equation 1.7 and table 6).
"""

from dataclasses import dataclass
from typing import Any

from parsim.errors import SpecError

__all__ = ["LAWS", "Law", "Scale", "growth", "kaplan_frontier", "of_flops", "of_parameters"]

_FLOPS_PER_TOKEN = 6.0
_PF_DAY = 1e15 * 86_400
_MOST = 1e30


@dataclass(frozen=True)
class Law:
    """D = factor * N^exponent, in tokens."""

    name: str
    factor: float
    exponent: float
    source: str

    def tokens(self, parameters: float) -> float:
        """Tokens for a model."""
        return float(self.factor * parameters**self.exponent)

    def parameters(self, flops: float) -> float:
        """The model that C FLOP train on its tokens: C = 6 factor N^(1 + exponent)."""
        return float((flops / (_FLOPS_PER_TOKEN * self.factor)) ** (1 / (1 + self.exponent)))


LAWS = {
    law.name: law
    for law in (
        Law("kaplan", 5e3, 0.74, "Kaplan et al. 2020 (2001.08361), section 4.4: tokens that avoid overfitting"),
        Law("chinchilla", 20.0, 1.0, "Hoffmann et al. 2022 (2203.15556): compute-optimal, about 20 tokens a parameter"),
    )
}


@dataclass(frozen=True)
class Scale:
    """A model, the tokens that it sees, and the FLOP of it: C = 6 N D."""

    law: str
    parameters: float
    tokens: float

    @property
    def flops(self) -> float:
        """C."""
        return _FLOPS_PER_TOKEN * self.parameters * self.tokens

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "law": self.law,
            "parameters": self.parameters,
            "tokens": self.tokens,
            "flops": self.flops,
            "tokens_per_parameter": self.tokens / self.parameters,
        }


def of_parameters(parameters: float, law: str = "chinchilla") -> Scale:
    """What a law says of a model. SpecError for a law that nobody knows, or a number that is none."""
    known = _law(law)
    return Scale(law, parameters, known.tokens(_checked("parameters", parameters)))


def of_flops(flops: float, law: str = "chinchilla") -> Scale:
    """What a law says of a budget of compute. SpecError as `of_parameters`."""
    known = _law(law)
    parameters = known.parameters(_checked("flops", flops))
    return Scale(law, parameters, known.tokens(parameters))


def kaplan_frontier(flops: float) -> Scale:
    """Kaplan's compute-efficient model for C: N by its fit, D = C / 6 N."""
    parameters = 1.3e9 * (_checked("flops", flops) / _PF_DAY) ** 0.73
    return Scale("kaplan, compute-efficient", parameters, flops / (_FLOPS_PER_TOKEN * parameters))


def growth(law: str, times: float) -> float:
    """How many times the tokens a model of `times` the parameters needs: 8 by Kaplan is 4.66."""
    return float(_checked("times", times) ** _law(law).exponent)


def _law(name: str) -> Law:
    if name not in LAWS:
        raise SpecError(f"law {name}: one of {', '.join(LAWS)}")
    return LAWS[name]


def _checked(name: str, value: float) -> float:
    if not 1 <= value <= _MOST:
        raise SpecError(f"{name} {value:g}: must be from 1 to {_MOST:g}")
    return value
