"""Published figures of collectives, counted on the rounds themselves: bytes that each rank sends, and steps."""

import math

import numpy as np
import pytest

from parsim.network.collectives import Group, Round, received_bytes, rounds_of, sent_bytes, steps
from parsim.network.collectives.tree import binary_tree, double_tree, twin_tree
from parsim.network.price import ring_bytes, ring_steps


def per_rank(rounds: list[Round], ranks: int) -> float:
    """What each rank sends, and receives, where all do alike."""
    sent = sent_bytes(rounds, ranks)
    assert sent == pytest.approx(np.full(ranks, sent[0]), rel=1e-12)
    assert received_bytes(rounds, ranks) == pytest.approx(sent, rel=1e-12)
    return float(sent[0])


def test_ring_all_reduce_of_a_million_fp32_parameters() -> None:
    rounds = rounds_of("all_reduce", "ring", Group(4), 4e6)
    assert per_rank(rounds, 4) == 6_000_000
    assert steps(rounds) == 6


@pytest.mark.parametrize(("ranks", "factor"), [(2, 1.0), (4, 1.5), (8, 1.75), (1024, 1.998)])
def test_ring_all_reduce_factor(ranks: int, factor: float) -> None:
    rounds = rounds_of("all_reduce", "ring", Group(ranks), 1.0)
    assert per_rank(rounds, ranks) == pytest.approx(factor, abs=5e-4)
    assert steps(rounds) == 2 * (ranks - 1)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8, 12, 64])
def test_rounds_send_what_the_formulas_of_price_say(ranks: int) -> None:
    size = 1e9
    for kind in ("all_reduce", "reduce_scatter", "all_gather"):
        rounds = rounds_of(kind, "ring", Group(ranks), size)
        assert per_rank(rounds, ranks) == pytest.approx(ring_bytes(kind, size, ranks))  # type: ignore[arg-type]
        assert steps(rounds) == ring_steps(kind, ranks)  # type: ignore[arg-type]
    whole = per_rank(rounds_of("all_reduce", "ring", Group(ranks), size), ranks)
    halves = [per_rank(rounds_of(kind, "ring", Group(ranks), size), ranks) for kind in ("reduce_scatter", "all_gather")]
    assert whole == pytest.approx(sum(halves))
    assert halves[0] == pytest.approx(size * (ranks - 1) / ranks)


@pytest.mark.parametrize(("domain", "domains"), [(1, 6), (4, 1), (4, 2), (8, 3), (3, 5)])
def test_a_hierarchical_all_reduce_sends_as_much_as_a_ring_in_fewer_steps(domain: int, domains: int) -> None:
    ranks = domain * domains
    rounds = rounds_of("all_reduce", "hierarchical", Group(ranks, domain), 1e9)
    assert per_rank(rounds, ranks) == pytest.approx(2e9 * (ranks - 1) / ranks)
    assert steps(rounds) == 2 * (domain - 1) + 2 * (domains - 1)
    across = sum(
        transfer.size_bytes for each in rounds for transfer in each if transfer.src == 0 and transfer.dst // domain != 0
    )
    assert across == pytest.approx(2e9 * (domains - 1) / ranks)


@pytest.mark.parametrize("ranks", [2, 8, 72])
def test_nvls_sends_half_of_a_ring(ranks: int) -> None:
    group = Group(ranks, ranks)
    assert per_rank(rounds_of("all_reduce", "nvls", group, 1e9), ranks) == pytest.approx(1e9 * (ranks + 1) / ranks)
    scatter = rounds_of("reduce_scatter", "nvls", group, 1e9)
    assert sent_bytes(scatter, ranks) == pytest.approx(np.full(ranks, 1e9))
    assert received_bytes(scatter, ranks) == pytest.approx(np.full(ranks, 1e9 / ranks))
    gather = rounds_of("all_gather", "nvls", group, 1e9)
    assert sent_bytes(gather, ranks) == pytest.approx(np.full(ranks, 1e9 / ranks))
    assert received_bytes(gather, ranks) == pytest.approx(np.full(ranks, 1e9))


def test_dispatch_of_an_expert_layer() -> None:
    """T 4096 tokens, k 8, h 7168, 2 bytes, over 64 ranks: 462 MB a dispatch."""
    size = 4096 * 8 * 7168 * 2
    rounds = rounds_of("all_to_all", "pairwise", Group(64), size)
    assert per_rank(rounds, 64) == pytest.approx(size * 63 / 64)
    assert round(per_rank(rounds, 64) / 1e6) == 462
    assert steps(rounds) == 63
    # With PXN the NICs carry what leaves a node of 8, no more; NVLink carries the hand-over besides.
    relayed = rounds_of("all_to_all", "pxn", Group(64, 8), size)
    leaving = np.zeros(64)
    for each in relayed:
        out = each.src // 8 != each.dst // 8
        leaving += np.bincount(each.src[out], each.size_bytes[out], 64)
    assert leaving == pytest.approx(np.full(64, size * 56 / 64))
    assert per_rank(relayed, 64) == pytest.approx(size * (63 + 49) / 64)


def test_keys_and_values_of_context_parallelism() -> None:
    """2 kv d (s/cp) 2 bytes (cp - 1) of kv 8, d 128, s 131072, cp 8: 470 MB a layer, a rank's to all others."""
    share = 2 * 8 * 128 * (131072 // 8) * 2
    rounds = rounds_of("all_gather", "ring", Group(8), 8 * share)
    assert per_rank(rounds, 8) == share * 7
    assert round(per_rank(rounds, 8) / 1e6) == 470
    assert steps(rounds) == 7


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_traffic_of_zero(ranks: int) -> None:
    """ZeRO-1 and 2 scatter gradients and gather parameters, ZeRO-3 gathers a second time: 2P and 3P (n-1)/n."""
    parameters = 7.5e9 * 2
    gather = rounds_of("all_gather", "ring", Group(ranks), parameters)
    scatter = rounds_of("reduce_scatter", "ring", Group(ranks), parameters)
    share = (ranks - 1) / ranks
    assert per_rank([*scatter, *gather], ranks) == pytest.approx(2 * parameters * share)
    assert per_rank([*gather, *gather, *scatter], ranks) == pytest.approx(3 * parameters * share)
    assert per_rank([*scatter, *gather], ranks) == pytest.approx(
        per_rank(rounds_of("all_reduce", "ring", Group(ranks), parameters), ranks)
    )


def test_sequence_parallelism_moves_as_much_forward_as_tensor_parallelism() -> None:
    """s 2048, h 12288, 2 bytes, t 8: two all-reduces a layer, or two gathers and two scatters: 176.2 MB a rank."""
    size = 2048 * 12288 * 2
    tensor = rounds_of("all_reduce", "ring", Group(8), size) * 2
    sequence = [
        *rounds_of("all_gather", "ring", Group(8), size) * 2,
        *rounds_of("reduce_scatter", "ring", Group(8), size) * 2,
    ]
    assert per_rank(tensor, 8) == pytest.approx(per_rank(sequence, 8))
    assert per_rank(tensor, 8) / 1e6 == pytest.approx(176.2, abs=0.05)
    backward = [*sequence, *rounds_of("all_gather", "ring", Group(8), size) * 2]
    assert per_rank(backward, 8) / 1e6 == pytest.approx(264.2, abs=0.05)


@pytest.mark.parametrize("ranks", range(2, 70))
def test_a_rank_is_inner_in_one_tree_at_most(ranks: int) -> None:
    """The twin trees of NCCL: a rank with children in both is one, at most (for an odd number of ranks)."""
    inner = [set(parents[parents >= 0].tolist()) for parents in (binary_tree(ranks), twin_tree(ranks))]
    assert len(inner[0] & inner[1]) <= ranks % 2
    for parents in (binary_tree(ranks), twin_tree(ranks)):
        assert np.count_nonzero(parents < 0) == 1
        assert np.bincount(parents[parents >= 0], minlength=ranks).max() <= 2


@pytest.mark.parametrize("ranks", [2, 3, 8, 100, 1024])
def test_a_tree_has_logarithmic_steps_and_sends_all_bytes_once_up_and_once_down(ranks: int) -> None:
    rounds = rounds_of("all_reduce", "tree", Group(ranks), 1e9)
    assert steps(rounds) <= 2 * math.ceil(math.log2(ranks) + 1)
    sent = sent_bytes(rounds, ranks)
    assert sent.sum() == pytest.approx(2e9 * (ranks - 1))
    assert sent.max() <= 2e9 * (1 + 1e-12)


def test_the_trees_of_eight_as_nccl_draws_them() -> None:
    """From the comment in NCCL's trees.cc: 0 - 4, 4 - 2 and 6, 2 - 1 and 3, 6 - 5 and 7; the other one mirrored."""
    assert binary_tree(8).tolist() == [-1, 2, 4, 2, 0, 6, 4, 6]
    assert twin_tree(8).tolist() == [1, 3, 1, 7, 5, 3, 5, -1]


def test_a_tree_over_nodes_is_a_chain_inside_them() -> None:
    """Two nodes of four: up the chain to its head, across once; the second tree by the other end of the nodes."""
    one, two = double_tree(Group(8, 4))
    assert one.tolist() == [-1, 0, 1, 2, 0, 4, 5, 6]
    assert two.tolist() == [1, 2, 3, 7, 5, 6, 7, -1]
