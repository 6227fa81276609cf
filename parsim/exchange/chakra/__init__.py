"""MLCommons Chakra: a run's step as execution traces, one a rank, for ASTRA-sim and other replays."""

from parsim.exchange.chakra.traces import chakra_traces

__all__ = ["chakra_traces"]
