"""Device: where a rank computes, behind one small interface: marks in time, memory, overlap, the backend's name.

On the CPU a mark is a clock reading. On a GPU it is an event on the current stream, read after the step: nothing in
the interpreter waits for the device.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist

from parsim.errors import SpecError

__all__ = ["CpuDevice", "CudaDevice", "Device", "open_device"]

A = TypeVar("A")
B = TypeVar("B")


class Device(Protocol):
    """What the interpreter asks of the hardware."""

    torch_device: torch.device
    backend: str
    """Name of the torch.distributed backend."""

    def mark(self) -> Any:
        """A point in time of this rank's work; opaque until `seconds`."""
        ...

    def seconds(self, marks: Sequence[Any]) -> list[float]:
        """The marks on this host's `time.perf_counter` clock, once all work has been done."""
        ...

    def watch(self, work: Any) -> Callable[[], Any]:
        """The mark of a collective's end; to be asked for once the work has been waited for."""
        ...

    def busy_s(self) -> float:
        """CPU time that the thread which computes has had so far; its share of an op's time says how real that is."""
        ...

    def run(self, lane: int, work: Callable[..., A], *arguments: Any) -> A:
        """Do a piece of work of the rank's stage number `lane`, after all that has been asked for before."""
        ...

    def both(self, lanes: tuple[int, int], first: Callable[[], A], second: Callable[[], B]) -> tuple[A, B]:
        """Do two pieces of work, of the stages `lanes`, overlapped where the device can."""
        ...

    def synchronize(self) -> None:
        """Wait until everything that was asked for is done."""
        ...

    def memory(self) -> Mapping[str, float]:
        """Bytes held now by category; empty where the device keeps no count."""
        ...


class CpuDevice:
    """The CPU: work is done when the call returns; two pieces of work are done one after the other."""

    backend = "gloo"

    def __init__(self) -> None:
        self.torch_device = torch.device("cpu")
        self.mark = time.perf_counter

    def seconds(self, marks: Sequence[float]) -> list[float]:
        return list(marks)

    def watch(self, work: dist.Work) -> Callable[[], float]:
        ends: list[float] = []
        with suppress(RuntimeError):  # gloo's reduce_scatter tells nobody when it is done
            work.get_future().add_done_callback(lambda _: ends.append(time.perf_counter()))
        return lambda: ends[0] if ends else time.perf_counter()

    def busy_s(self) -> float:
        return time.thread_time()

    def run(self, lane: int, work: Callable[..., A], *arguments: Any) -> A:
        return work(*arguments)

    def both(self, lanes: tuple[int, int], first: Callable[[], A], second: Callable[[], B]) -> tuple[A, B]:
        return first(), second()

    def synchronize(self) -> None:
        pass

    def memory(self) -> Mapping[str, float]:
        return {}


class CudaDevice:
    """A GPU: work is queued on streams, marks are events, and a pair of ops runs on two streams.

    Every stage of a rank has a stream of its own, for autograd runs a backward on the stream of its forward: a pair of
    ops of two stages could not overlap otherwise. The main stream, with messages and marks, waits for each op.
    """

    backend = "nccl"

    def __init__(self, index: int) -> None:
        self.torch_device = torch.device("cuda", index)
        torch.cuda.set_device(self.torch_device)
        self._lanes: dict[int, torch.cuda.Stream] = {}
        self._start()

    def _start(self) -> None:
        """An event whose time on the host is known: the device has nothing to do when it is recorded."""
        torch.cuda.synchronize(self.torch_device)
        self._origin = torch.cuda.Event(enable_timing=True)
        before = time.perf_counter()
        self._origin.record()
        self._origin.synchronize()
        self._origin_s = (before + time.perf_counter()) / 2

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, marks: Sequence[torch.cuda.Event]) -> list[float]:
        self.synchronize()
        return [self._origin_s + self._origin.elapsed_time(mark) / 1e3 for mark in marks]

    def watch(self, work: dist.Work) -> Callable[[], torch.cuda.Event]:
        return self.mark  # after the wait, when the stream has gone past the collective

    def busy_s(self) -> float:
        return 0.0

    def _lane(self, lane: int) -> torch.cuda.Stream:
        if lane not in self._lanes:
            self._lanes[lane] = torch.cuda.Stream(self.torch_device)
        return self._lanes[lane]

    def run(self, lane: int, work: Callable[..., A], *arguments: Any) -> A:
        main, stream = torch.cuda.current_stream(), self._lane(lane)
        stream.wait_stream(main)
        with torch.cuda.stream(stream):
            done = work(*arguments)
        main.wait_stream(stream)
        return done

    def both(self, lanes: tuple[int, int], first: Callable[[], A], second: Callable[[], B]) -> tuple[A, B]:
        main, one, other = torch.cuda.current_stream(), self._lane(lanes[0]), self._lane(lanes[1])
        one.wait_stream(main)
        other.wait_stream(main)
        with torch.cuda.stream(one):
            done = first()
        with torch.cuda.stream(other):
            also = second()
        main.wait_stream(one)
        main.wait_stream(other)
        return done, also

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.torch_device)

    def memory(self) -> Mapping[str, float]:
        return {
            "allocated": float(torch.cuda.memory_allocated(self.torch_device)),
            "reserved": float(torch.cuda.memory_reserved(self.torch_device)),
            "peak_allocated": float(torch.cuda.max_memory_allocated(self.torch_device)),
        }


def open_device(kind: str, local_rank: int) -> Device:
    """The device of a rank: its node's GPU number `local_rank`, or the CPU. SpecError if it is not there."""
    if kind == "cpu":
        return CpuDevice()
    if not torch.cuda.is_available():
        raise SpecError("device cuda: torch finds no GPU on this machine; cpu would do")
    if local_rank >= torch.cuda.device_count():
        raise SpecError(
            f"device cuda: rank {local_rank} of this node has no GPU: there are {torch.cuda.device_count()}"
        )
    return CudaDevice(local_rank)
