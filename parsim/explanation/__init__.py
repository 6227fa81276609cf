"""Explanations: what a predicted step is made of, which stage is the slowest and why, what a token budget takes."""

from parsim.explanation.slowest import SlowestStage, slowest_stage_of
from parsim.explanation.waterfall import Waterfall, peak_of, waterfall_of

__all__ = ["SlowestStage", "Waterfall", "peak_of", "slowest_stage_of", "waterfall_of"]
