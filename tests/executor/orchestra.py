"""All ranks of a plan as threads of this process, with a transport of queues that sees every message."""

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch

from executor.comms import Messages, routes_of
from executor.device import CpuDevice
from executor.roles import Player
from executor.worker import Worker
from parsim.plan import Plan, add_p2p

__all__ = ["Hall", "play_together"]

DEADLINE_S = 60.0


class SendWork:
    def __init__(self, hall: "Hall", place: tuple[int, int, int]) -> None:
        self.hall, self.place = hall, place

    def wait(self) -> None:
        """A worker waits for a send when the plan proves that it has arrived, or at the end of the step."""
        taken = self.hall.taken[self.place]
        if not taken.is_set():
            self.hall.early.append(self.place)
        assert taken.wait(DEADLINE_S), f"message {self.place} was never taken"


class ReceiveWork:
    def __init__(self, hall: "Hall", place: tuple[int, int, int], buffer: torch.Tensor) -> None:
        self.hall, self.place, self.buffer = hall, place, buffer

    def wait(self) -> None:
        self.buffer.copy_(self.hall.delivered(*self.place))
        self.hall.taken[self.place].set()


class Hall:
    """Channels between ranks; `early` are the sends that somebody waited for before they had arrived."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.channels: dict[tuple[int, int], queue.Queue[Any]] = {}
        self.taken: dict[tuple[int, int, int], threading.Event] = {}
        self.aside: dict[tuple[int, int], dict[int, torch.Tensor]] = {}
        self.early: list[tuple[int, int, int]] = []
        self.posted: dict[tuple[int, int], list[int]] = {}

    def delivered(self, source: int, target: int, number: int) -> torch.Tensor:
        """Message `number` of a channel; those before it, which other receives wait for, are put aside."""
        arrived = self.aside.setdefault((source, target), {})  # one thread takes from a channel
        while number not in arrived:
            came, tensor = self.channel(source, target).get(timeout=DEADLINE_S)
            arrived[came] = tensor
        return arrived.pop(number)

    def channel(self, source: int, target: int) -> "queue.Queue[Any]":
        with self.lock:
            return self.channels.setdefault((source, target), queue.Queue())


class Desk:
    """One rank's way into the hall."""

    def __init__(self, hall: Hall, rank: int) -> None:
        self.hall, self.rank = hall, rank

    def send(self, tensor: torch.Tensor, peer: int, number: int) -> Any:
        place = (self.rank, peer, number)
        self.hall.taken[place] = threading.Event()
        self.hall.channel(self.rank, peer).put((number, tensor))
        return SendWork(self.hall, place)

    def receive(self, tensor: torch.Tensor, peer: int, number: int) -> Any:
        self.hall.posted.setdefault((peer, self.rank), []).append(number)
        return ReceiveWork(self.hall, (peer, self.rank, number), tensor)


def play_together(
    plan: Plan,
    players: Callable[[int], Mapping[int, Player]],
    feed: Callable[[int], Any],
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float64,
    *,
    steps: int = 1,
    worker_of: Callable[..., Worker] = Worker,
) -> tuple[Hall, list[Worker]]:
    """Play `steps` steps of a plan (messages are added); `players(rank)` are a rank's stages, `feed(step)` the data."""
    plan = add_p2p(plan)
    hall, errors = Hall(), list[BaseException]()
    workers = []
    for rank in range(plan.placement.ranks):
        routes = routes_of(plan, rank)
        messages = Messages(routes, Desk(hall, rank), shape, dtype, torch.device("cpu"))
        workers.append(worker_of(plan, rank, players(rank), messages, routes.due, CpuDevice()))

    def run(worker: Worker, step: int) -> None:
        try:
            worker.play(feed(step))
        except BaseException as error:
            errors.append(error)

    for step in range(steps):
        threads = [threading.Thread(target=run, args=(worker, step), daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        if errors:
            raise errors[0]
        assert not any(thread.is_alive() for thread in threads), "the plan did not end"
    return hall, workers
