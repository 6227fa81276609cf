"""Memory: what a rank holds after each op. A GPU's allocator knows; on the CPU the tensors are counted.

The count watches every operator PyTorch dispatches and adds the storages that it makes, each once, until they are
freed. So views and in-place results cost nothing, and what autograd keeps for the backward counts as long as it does.
"""

import weakref
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

__all__ = ["TensorCount"]


class TensorCount(TorchDispatchMode):
    """Counts bytes of storages made while it is active: `live_bytes` now, `peak_bytes` since `reset_peak`."""

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.live_bytes = 0
        self.peak_bytes = 0
        self._seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._known = [tensor.untyped_storage() for tensor in known]  # kept, so that nothing takes their place
        self._ignored = {storage.data_ptr() for storage in self._known}

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)

    def reset_peak(self) -> None:
        """Forget the peak: what is live now is the highest so far."""
        self.peak_bytes = self.live_bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        place = storage.data_ptr()
        if not place or place in self._seen or place in self._ignored:
            return
        size = storage.nbytes()

        def freed(_: Any) -> None:
            self.live_bytes -= size
            self._seen.pop(place, None)

        self._seen[place] = weakref.ref(storage, freed)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
