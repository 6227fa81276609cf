"""The proof of a collective: its rounds replayed on symbolic shards, each the set of ranks that it adds up.

At first each rank holds its own contribution, to the shards that the kind says. A reducing transfer adds what its
source holds to what its target holds, and must not bring a contribution twice; a copying one puts it in its place. A
transfer sends what its source holds at the start of the round; a switch holds only what came in the round before. Two
transfers of a round may not write one shard of one endpoint, unless both add. A shard has the same bytes each time it
is sent, all shards together those of the collective.

At the end:  all-reduce   every rank has all shards, with all contributions
             reduce-scatter   rank r has shard r, with all contributions (shards rk to rk + k - 1 where there are kn)
             all-gather, broadcast   every rank has every shard, as its owner (the root) had it
             reduce   the root has all shards, with all contributions
             all-to-all   rank j has every block (i, j) of more than 0 bytes;   send   the target has the shard

A contribution is a bit of a Python integer: set union is "or", and what is brought twice is "and".
"""

from collections.abc import Iterable
from math import isclose

import numpy as np

from parsim.errors import ScheduleError
from parsim.network.collectives.pairwise import block_bytes
from parsim.network.collectives.rounds import Floats, Group, Round, Transfer, checked_bytes

__all__ = ["prove"]

_Holdings = dict[tuple[int, int], int]


def prove(
    kind: str,
    rounds: Iterable[Round],
    group: Group,
    size_bytes: float | Floats,
    *,
    root: int = 0,
    source: int = 0,
    target: int | None = None,
) -> None:
    """Nothing, where the rounds do what the kind says; ScheduleError that names the round and the transfer if not."""
    played = list(rounds)
    n = group.ranks
    shards = 1 + max((int(each.shard.max()) + each.width - 1 for each in played if len(each)), default=n - 1)
    if kind in {"reduce_scatter", "all_gather"} and shards % n:
        raise ScheduleError(f"{kind} of {n} ranks in {shards} shards: as many for each rank are needed")
    to = n - 1 if target is None else target
    held = _beginning(kind, n, shards, source if kind == "send" else root)
    sizes: dict[int, float] = {}
    for number, each in enumerate(played):
        _replay(number, each, n, n + group.domains, held, sizes)
    _check_sizes(kind, group, size_bytes, shards, sizes)
    for (rank, shard), wanted in _ending(kind, group, size_bytes, shards, root, source, to).items():
        has = held.get((rank, shard), 0)
        if has != wanted:
            raise ScheduleError(
                f"{kind}: rank {rank} ends with {_named(has)} of shard {shard}; it should have {_named(wanted)}"
            )


def _beginning(kind: str, n: int, shards: int, root: int) -> _Holdings:
    if kind in {"broadcast", "send"}:
        return {(root, shard): 1 << root for shard in range(shards)}
    if kind == "all_gather":
        return {(shard * n // shards, shard): 1 << shard * n // shards for shard in range(shards)}
    if kind == "all_to_all":
        return {(i, i * n + j): 1 << i for i in range(n) for j in range(n)}
    return {(rank, shard): 1 << rank for rank in range(n) for shard in range(shards)}


def _ending(
    kind: str, group: Group, size_bytes: float | Floats, shards: int, root: int, source: int, target: int
) -> _Holdings:
    n = group.ranks
    whole = (1 << n) - 1
    match kind:
        case "all_reduce":
            return {(rank, shard): whole for rank in range(n) for shard in range(shards)}
        case "reduce_scatter":
            return {(shard * n // shards, shard): whole for shard in range(shards)}
        case "all_gather":
            return {(rank, shard): 1 << shard * n // shards for rank in range(n) for shard in range(shards)}
        case "broadcast":
            return {(rank, shard): 1 << root for rank in range(n) for shard in range(shards)}
        case "reduce":
            return {(root, shard): whole for shard in range(shards)}
        case "all_to_all":
            full = np.argwhere(block_bytes(group, size_bytes) > 0).tolist()
            return {(j, i * n + j): 1 << i for i, j in full}
        case "send":
            return {(target, shard): 1 << source for shard in range(shards)}
    raise ScheduleError(f"nothing is known of what {kind!r} should do")


def _replay(number: int, each: Round, ranks: int, endpoints: int, held: _Holdings, sizes: dict[int, float]) -> None:
    before: list[tuple[Transfer, list[int]]] = []
    for transfer in each:
        where = f"round {number}: {transfer}"
        if transfer.src == transfer.dst or not (0 <= transfer.src < endpoints and 0 <= transfer.dst < endpoints):
            raise ScheduleError(f"{where} is not between two of the {endpoints} endpoints")
        carried = range(transfer.shard, transfer.shard + transfer.width)
        before.append((transfer, [held.get((transfer.src, shard), 0) for shard in carried]))
        for shard, has in zip(carried, before[-1][1], strict=True):
            if not has:
                raise ScheduleError(f"{where} sends shard {shard}, which its source does not hold")
            if not isclose(
                sizes.setdefault(shard, transfer.size_bytes / transfer.width) * transfer.width,
                transfer.size_bytes,
                rel_tol=1e-9,
            ):
                raise ScheduleError(f"{where}: shard {shard} was sent with {sizes[shard]:g} bytes before")
    for key in [key for key in held if key[0] >= ranks]:
        del held[key]
    written: dict[tuple[int, int], bool] = {}
    for transfer, brought in before:
        for shard, value in enumerate(brought, transfer.shard):
            key = (transfer.dst, shard)
            if key in written and not (transfer.reduces and written[key]):
                raise ScheduleError(f"round {number}: {transfer} and another both write shard {shard}")
            if transfer.reduces and held.get(key, 0) & value:
                twice = _named(held[key] & value)
                raise ScheduleError(f"round {number}: {transfer} adds {twice} a second time to shard {shard}")
            held[key] = held.get(key, 0) | value if transfer.reduces else value
            written[key] = transfer.reduces


def _check_sizes(kind: str, group: Group, size_bytes: float | Floats, shards: int, sizes: dict[int, float]) -> None:
    n = group.ranks
    if kind == "all_to_all":
        blocks = block_bytes(group, size_bytes)
        for shard, sent in sizes.items():
            if not isclose(sent, blocks[divmod(shard, n)], rel_tol=1e-9):
                raise ScheduleError(f"{kind}: block {divmod(shard, n)} is sent with {sent:g} bytes")
        return
    size = checked_bytes(size_bytes)  # type: ignore[arg-type]
    if sizes and (len(sizes) != shards or not isclose(sum(sizes.values()), size, rel_tol=1e-9)):
        raise ScheduleError(
            f"{kind} of {size:g} bytes: {len(sizes)} of {shards} shards are sent, of {sum(sizes.values()):g} bytes"
        )


def _named(contributions: int) -> str:
    ranks = [str(bit) for bit in range(contributions.bit_length()) if contributions >> bit & 1]
    return f"the contributions of {', '.join(ranks)}" if ranks else "nothing"
