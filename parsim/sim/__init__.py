"""Two players of one program: the longest path (fast, many lanes at once) and SimPy's events."""

from parsim.sim.chain_bound import StageTimes, chain_bound
from parsim.sim.compiler import compile_plan
from parsim.sim.engine import play as play_events
from parsim.sim.family import Family
from parsim.sim.longest_path import play
from parsim.sim.makespans import makespans
from parsim.sim.noise import Noise, parse_jitter, parse_slow_rank
from parsim.sim.played import Played, latest_first_starts
from parsim.sim.prices import Prices, prices, stack
from parsim.sim.program import SENDS, Program, Sends
from parsim.sim.recording import recording
from parsim.sim.replay import replay
from parsim.sim.steady_state import Interval, Steady, steady_state

__all__ = [
    "SENDS",
    "Family",
    "Interval",
    "Noise",
    "Played",
    "Prices",
    "Program",
    "Sends",
    "StageTimes",
    "Steady",
    "chain_bound",
    "compile_plan",
    "latest_first_starts",
    "makespans",
    "parse_jitter",
    "parse_slow_rank",
    "play",
    "play_events",
    "prices",
    "recording",
    "replay",
    "stack",
    "steady_state",
]
