"""Memory: what a rank holds after each op. A GPU's allocator knows; on the CPU the tensors are counted.

The count watches every operator PyTorch dispatches and adds the storages that it makes, each once, until they are
freed. So views and in-place results cost nothing, and what autograd keeps for the backward counts as long as it does.
FSDP gives gathered weights back by resizing their storages: a resize counts at once. Distributed tensors are asked for
their local ones; fake tensors count what real ones would take, but not those that sharding rules are tried on.
"""

import weakref
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch._guards import active_fake_mode
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass_type
from torch.utils._pytree import tree_iter

__all__ = ["TensorCount"]


class TensorCount(TorchDispatchMode):
    """Counts bytes of storages made while it is active: `live_bytes` now, `peak_bytes` since `reset_peak`."""

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.live_bytes = 0
        self.peak_bytes = 0
        self._sizes: dict[int, int] = {}
        self._watched: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._known = [tensor.untyped_storage() for tensor in known]  # kept, so that nothing takes their place
        self._ignored = {storage._cdata for storage in self._known}
        self._resize = torch.UntypedStorage.resize_
        self._fake_mode: Any = None

    def __enter__(self) -> Self:
        super().__enter__()
        self._fake_mode = active_fake_mode()
        self._resize = torch.UntypedStorage.resize_

        def resize(storage: torch.UntypedStorage, size: int) -> Any:
            made = self._resize(storage, size)
            self._add(storage)
            return made

        torch.UntypedStorage.resize_ = resize
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.UntypedStorage.resize_ = self._resize
        super().__exit__(kind, error, trace)

    def reset_peak(self) -> None:
        """Forget the peak: what is live now is the highest so far."""
        self.peak_bytes = self.live_bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if any(is_traceable_wrapper_subclass_type(kind) for kind in types):
            return NotImplemented  # it comes back with its local tensors
        made = func(*args, **(kwargs or {}))
        if active_fake_mode() is self._fake_mode:
            for tensor in tree_iter(made):
                if isinstance(tensor, torch.Tensor):
                    self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self._ignored:
            return
        before = self._sizes.get(place)
        if before is None:

            def freed(_: Any) -> None:
                self.live_bytes -= self._sizes.pop(place)
                del self._watched[place]

            self._watched[place] = weakref.ref(storage, freed)
        if size != before:
            self._sizes[place] = size
            self.live_bytes += size - (before or 0)
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
