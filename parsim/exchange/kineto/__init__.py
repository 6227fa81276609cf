"""Traces of PyTorch's profiler (Kineto, Chrome JSON): what a real run did, as a Timeline."""

from parsim.exchange.kineto.timeline import timeline_of_traces
from parsim.exchange.kineto.trace import Trace, read_trace

__all__ = ["Trace", "read_trace", "timeline_of_traces"]
