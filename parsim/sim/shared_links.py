"""Shared links: what happens on them at a time, as fluid flows on SimPy's clock.

An activity that lasts `seconds` by itself has, by itself, a lone rate: its bytes over these seconds, and never more
than its links carry. It is a flow of seconds * lone rate with that rate as its cap, so it takes its seconds exactly
where it has what it needs, and longer where others take it.

So that flows are treated alike where they meet, a flow's rate is counted as the part that it takes of the link it
fills first: two that would fill the same link have half of it each, however many connections they are made of.
"""

import math

import simpy

from parsim.network.fluid import Fluid
from parsim.network.traffic import Use

__all__ = ["Carried", "SharedLinks"]


class Carried:
    """An activity on its way, and the event at which it is over."""

    __slots__ = ("done", "flow", "lone")

    def __init__(self, flow: int, lone: float, done: simpy.Event) -> None:
        self.flow = flow
        self.lone = lone
        self.done = done


class SharedLinks:
    """Links of capacity 1 and the activities on them, on the clock of a SimPy environment."""

    def __init__(self, environment: simpy.Environment, links: int) -> None:
        self._environment = environment
        self._fluid = Fluid([1.0] * links)
        self._carried: dict[int, Carried] = {}
        self._woken_s = math.inf  # for when the next wake-up is set
        self._settling = False

    def start(self, use: Use, seconds: float, bytes_per_s: float, speed: float = 1.0) -> Carried:
        """An activity that by itself lasts `seconds` at `bytes_per_s`; `speed` below 1: held back by other things."""
        self._advance()
        most = max(use.parts)
        lone = min(bytes_per_s, use.most_bytes_per_s) * most
        flow = self._fluid.start(use.links, seconds * lone, lone * speed, [part / most for part in use.parts])
        carried = self._carried[flow] = Carried(flow, lone, self._environment.event())
        self._settle_soon()
        return carried

    def stop(self, carried: Carried) -> float:
        """Seconds that it would have yet to run by itself; 0 if it is over."""
        self._advance()
        if carried.flow not in self._carried:
            return 0.0
        del self._carried[carried.flow]
        left = self._fluid.stop(carried.flow) / carried.lone
        self._settle_soon()
        return left

    def _advance(self) -> None:
        now = max(self._environment.now, self._fluid.now_s)
        for flow in self._fluid.advance(now):
            self._carried.pop(flow).done.succeed()

    def _settle_soon(self) -> None:
        """Once for all that starts and stops at this moment: see when the next flow ends."""
        if not self._settling:
            self._settling = True
            event = self._environment.timeout(0.0)
            assert event.callbacks is not None
            event.callbacks.append(self._settle)

    def _settle(self, _: simpy.Event) -> None:
        self._settling = False
        self._advance()
        end_s = self._fluid.next_end_s
        if end_s < math.inf and not self._woken_s <= end_s:
            self._woken_s = end_s
            event = self._environment.timeout(max(end_s - self._environment.now, 0.0), end_s)
            assert event.callbacks is not None
            event.callbacks.append(self._wake)

    def _wake(self, event: simpy.Event) -> None:
        """The clock adds up what it waits for: it may be a rounding before the end it was set for."""
        if event.value != self._woken_s:
            return
        self._woken_s = math.inf
        for flow in self._fluid.advance(max(event.value, self._fluid.now_s)):
            self._carried.pop(flow).done.succeed()
        self._settle_soon()
