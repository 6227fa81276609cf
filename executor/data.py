"""Data: token ids that depend on the run's seed, the step and the micro-batch alone, whoever asks for them."""

import hashlib

import torch

from parsim.spec import Run

__all__ = ["micro_batch"]


def micro_batch(run: Run, step: int, index: int, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and next-token targets, both [b, s] int64, of the global micro-batch `index` of a step."""
    name = f"{run.seed}/{step}/{index}".encode()
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name).digest()[:4]))
    shape = (run.layout.micro_batch_size, run.batch.sequence_length + 1)
    tokens = torch.randint(run.model.vocab, shape, generator=generator)
    return tokens[:, :-1].contiguous().to(device), tokens[:, 1:].contiguous().to(device)
