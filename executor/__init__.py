"""executor: plays a parsim plan on real processes with torch.distributed, and records what happened."""

__all__: list[str] = []
