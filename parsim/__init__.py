"""parsim: plan the parallel layout of large-model training.

run = parsim.load("run.yaml")          # a YAML file, or the name of a bundled run
result = parsim.simulate(run)          # step time, bubbles, memory of every pipeline rank
result.step_time_s
"""

__version__ = "0.1.0"
