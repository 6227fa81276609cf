"""Routing: which experts a token goes to, and how unevenly that loads experts and the ranks that hold them.

A token's k experts are drawn by weight without replacement: the k largest of log w + g, with g Gumbel noise
(Efraimidis and Spirakis 2006; Kool et al. 2019, 1903.06059). Before the experts rows are permuted, so that those of one
expert lie side by side, and behind them put back. With a capacity, an expert takes C = ceil(cf k T / E) of the T tokens
that each rank routes and drops the others (GShard, 2006.16668, section 2.2; Switch, 2101.03961, equation 3; Megatron
drops on each rank); padded, every expert computes C rows for each rank, and C travel.

All ranks wait in the exchanges of each layer for the one with the most rows: the step follows the maximum.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from parsim.spec import MoeSpec, Run

__all__ = [
    "EVEN",
    "Crowding",
    "Permutation",
    "capacity",
    "chosen_experts",
    "crowding_of",
    "permutation",
    "routing_document",
    "routing_notes",
]

_LAYERS = 4  # as many layers are drawn: their routers have favourites of their own
_SCORES = 2**22  # tokens times experts that are drawn for one layer, at the most; their shares stand for all

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Permutation:
    """The order that brings the rows of one expert together: row i of the permuted is row `order[i]` of the routed, k
    rows a token, and of what comes back row j is `inverse[j]`. `counts` are each expert's rows.
    """

    order: npt.NDArray[np.intp]
    inverse: npt.NDArray[np.intp]
    counts: npt.NDArray[np.intp]


def permutation(experts: npt.NDArray[np.intp], count: int) -> Permutation:
    """The permutation of routed rows: `experts` [rows] of `count`; rows of one expert keep their order."""
    order = np.argsort(experts, kind="stable")
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return Permutation(order, inverse, np.bincount(experts, minlength=count))


def capacity(factor: float, topk: int, tokens: int, experts: int) -> int:
    """Rows that an expert takes from a rank with so many tokens: ceil(cf k T / E)."""
    return math.ceil(round(factor * topk * tokens / experts, 9))


def chosen_experts(
    weights: npt.NDArray[np.float64], moe: MoeSpec, tokens: int, random: np.random.Generator
) -> npt.NDArray[np.intp]:
    """[tokens, k]: the experts of each token, drawn by `weights` [experts] without replacement. Where they stand in
    groups, those of a token come from the groups with the best scores.
    """
    scores = np.log(weights) + random.gumbel(size=(tokens, moe.experts))
    if moe.topk_groups < moe.groups:
        grouped = scores.reshape(tokens, moe.groups, -1)
        best = grouped.max(axis=2)
        worse = best < -np.partition(-best, moe.topk_groups - 1, axis=1)[:, moe.topk_groups - 1 : moe.topk_groups]
        scores = np.where(worse[:, :, None], -np.inf, grouped).reshape(tokens, -1)
    return np.argpartition(-scores, moe.topk - 1, axis=1)[:, : moe.topk]


@dataclass(frozen=True)
class Crowding:
    """Rows of experts over their even share, k T a rank: `loads` [layers][experts] of those that are computed.

    `dropped` is the share of routed rows that no expert takes, `padded` the share of computed ones that are no token's.
    """

    loads: tuple[tuple[float, ...], ...] = ((1.0,),)
    dropped: float = 0.0
    padded: float = 0.0

    def busiest(self, places: int) -> float:
        """Rows of the busiest of `places`, which hold as many experts each, over an even share: the mean of layers."""
        if places == 1 or len(self.loads[0]) == 1:
            return self.computed
        experts = len(self.loads[0])
        place = np.arange(experts) * places // experts
        held = [np.bincount(place, layer) / np.bincount(place) for layer in self.loads]
        return float(np.mean([loads.max() for loads in held]))

    @property
    def computed(self) -> float:
        """Rows that all experts compute over those routed."""
        return float(np.mean(self.loads))

    @property
    def busiest_expert(self) -> float:
        """Rows of the busiest expert over an even share."""
        return self.busiest(len(self.loads[0]))


EVEN = Crowding()


def crowding_of(run: Run) -> Crowding:
    """How a run's experts are loaded, the same by its seed. EVEN where routing is balanced, or nobody said how."""
    moe, software, layout = run.model.moe, run.software, run.layout
    dropping = software.routing == "token_drop"
    if moe is None or (software.router_skew is None and not dropping):
        return EVEN
    skew = software.router_skew
    limit = (software.capacity_factor or 1.0) if dropping else None
    kind, amount = "stated", 1.0
    if skew is not None:
        kind = skew.source
        amount = next(v for v in (skew.max_over_mean, skew.zipf, skew.dirichlet) if v is not None)
    return _crowding(
        (kind, amount, software.balance_loss),
        moe,
        _tokens(run),
        (layout.ep, layout.ep * layout.expert_tp),
        limit,
        limit is not None and software.pad_to_capacity,
        run.seed,
    )


def _tokens(run: Run) -> int:
    """Tokens of a micro-batch that one rank routes."""
    mesh = run.layout.mesh
    return max(run.batch.sequence_length * run.layout.micro_batch_size // (mesh.cp * mesh.tp), 1)


def routing_document(run: Run) -> dict[str, float | int | str | None] | None:
    """A run's routing as JSON: tokens over the mean, and what a capacity does; None without experts."""
    moe, software = run.model.moe, run.software
    if moe is None:
        return None
    found, limit = crowding_of(run), None
    if software.routing == "token_drop":
        limit = capacity(software.capacity_factor or 1.0, moe.topk, _tokens(run), moe.experts)
    return {
        "routing": software.routing,
        "busiest_rank_over_mean": found.busiest(run.layout.ep),
        "busiest_expert_over_mean": found.busiest_expert,
        "capacity_tokens": limit,
        "dropped_share": found.dropped,
        "padded_share": found.padded,
    }


def routing_notes(run: Run) -> tuple[str, ...]:
    """What a reader must know of a run's routing, a line each."""
    moe, software, found = run.model.moe, run.software, crowding_of(run)
    if moe is None or software.routing == "balanced":
        return ()
    notes = []
    if software.router_skew is None:
        notes.append(f"routing {software.routing}: priced as even; software.router_skew says how uneven it is")
    elif run.layout.ep > 1 and not (software.routing == "token_drop" and software.pad_to_capacity):
        notes.append(
            f"routing: the busiest of {run.layout.ep} ep ranks computes {found.busiest(run.layout.ep):.2f} times an "
            "even share, and every layer waits for it; what this does to the model's quality is not simulated"
        )
    if software.routing == "token_drop":
        notes.append(
            f"token drop: {found.dropped:.1%} of the routed tokens are dropped, "
            f"{found.padded:.1%} of what experts compute is padding"
        )
    return tuple(notes)


@lru_cache(maxsize=256)
def _crowding(
    skew: tuple[str, float, float],
    moe: MoeSpec,
    tokens: int,
    group: tuple[int, int],
    factor: float | None,
    padded: bool,
    seed: int,
) -> Crowding:
    """`tokens` of a rank; `group`: ranks that experts are cut over, and ranks that send to them."""
    even = moe.topk * tokens / moe.experts
    kind, amount, balance_loss = skew
    if kind == "stated":
        rows = _stated(moe.experts, group[0], amount) * even
    else:
        rows = _drawn(kind, amount, moe, tokens, group[1], seed)
    rows = balance_loss * even + (1 - balance_loss) * rows  # [layers, ranks, experts]
    routed = rows.sum()
    if factor is None:
        return Crowding(_rows(rows / even))
    limit = capacity(factor, moe.topk, tokens, moe.experts)
    taken = np.minimum(rows, limit)
    computed = np.full_like(rows, limit) if padded else taken
    lost = float(1 - taken.sum() / routed)
    return Crowding(_rows(computed / even), max(lost, 0.0), float(1 - taken.sum() / computed.sum()))


def _rows(loads: Counts) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(layer) for layer in loads.mean(axis=1).tolist())


def _stated(experts: int, ranks: int, max_over_mean: float) -> Counts:
    """Loads [1, 1, experts]: the first rank's experts have so much, the others share the rest."""
    loads = np.full((1, 1, experts), (ranks - max_over_mean) / max(ranks - 1, 1))
    loads[..., : experts // ranks] = max_over_mean
    return loads


def _drawn(kind: str, amount: float, moe: MoeSpec, tokens: int, senders: int, seed: int) -> Counts:
    """Rows [layers, ranks, experts] that ranks route to experts, of weights that each layer draws for itself."""
    drawn = min(tokens, max(_SCORES // moe.experts, 1))
    ranks = max(1, min(senders, _SCORES // (moe.experts * drawn)))
    found = np.empty((_LAYERS, ranks, moe.experts))
    for layer in range(_LAYERS):
        random = np.random.default_rng((seed, layer))
        weights = _weights(kind, amount, moe.experts, random)
        for rank in range(ranks):
            chosen = chosen_experts(weights, moe, drawn, random)
            found[layer, rank] = permutation(chosen.reshape(-1), moe.experts).counts
    return found * (tokens / drawn)


def _weights(kind: str, amount: float, experts: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """How popular each expert is: positive, in no order of experts."""
    if kind == "dirichlet":
        return np.maximum(random.dirichlet(np.full(experts, amount)), 1e-300)
    popularity: npt.NDArray[np.float64] = random.permutation(np.arange(1.0, experts + 1.0) ** -amount)
    return np.maximum(popularity, 1e-300)
