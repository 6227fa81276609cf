"""The optimizer's step: memory traffic of a rank's share of the parameters, and Muon's matmuls.

    traffic = overhead * bytes * parameters/shard, then the gradients once more for the norm that clips them

Bytes read and written per parameter, with fp32 states and a 16-bit copy of the weights: Adam 30 (gradient 4, master 8,
two moments 16, copy 2), LAMB 42 (its update is stored and read again, and the norm of every tensor taken before:
You et al. 2020), momentum 22, SGD 14. Muon has one moment, and orthogonalises it by five Newton-Schulz iterations in
16 bit: X <- aX + (bA + cA^2)X with A = XX^T, so 5 * (4 m^2 n + 2 m^3) FLOP for a layer's matrix of m <= n (Jordan et
al. 2024); each rank does its share of whole matrices (Liu et al. 2025, arXiv:2502.16982). Embeddings, head and norms
are left to Adam.
"""

from parsim.cost.constants import Constants
from parsim.cost.rates import Rates
from parsim.model.dims import Dim, Sizes, length
from parsim.model.layer import Matmul, Work

__all__ = ["newton_schulz_flops", "optimizer_seconds", "update_traffic_bytes"]

_ITERATIONS = 5
_TRAFFIC = {"adam": 30 / 30, "lamb": 42 / 30, "momentum": 22 / 30, "sgd": 14 / 30, "muon": 22 / 30}  # of Adam's


def optimizer_seconds(
    optimizer: str, parameters: float, orthogonalised_flops: float, rates: Rates, constants: Constants
) -> float:
    """Seconds of updating `parameters`, the share of one rank, of which Muon multiplies for so many FLOP."""
    traffic = constants.optimizer_overhead * update_traffic_bytes(optimizer, constants) * parameters
    matmuls = orthogonalised_flops if optimizer == "muon" else 0.0
    return traffic / rates.memory_bytes_per_s + matmuls / (rates.peak_flops_per_s * rates.matmul)


def update_traffic_bytes(optimizer: str, constants: Constants) -> float:
    """Bytes read and written per parameter that is updated."""
    return constants.optimizer_bytes * _TRAFFIC[optimizer]


def newton_schulz_flops(work: tuple[Work, ...], sizes: Sizes, experts: bool) -> float:
    """FLOP of orthogonalising the matrices of a layer's matmuls on one rank: of its experts, or of the rest."""
    total = 0.0
    for item in work:
        if isinstance(item, Matmul) and item.layer and item.experts is experts:
            short, long = sorted((length(item.inner, sizes), length(item.cols, sizes)))
            matrices = sizes[Dim.EXPERTS] if experts else 1
            total += matrices * _ITERATIONS * (4 * short**2 * long + 2 * short**3)
    return total
