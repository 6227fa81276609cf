"""Llama-3 8B under FSDP2 without GPUs: a fake step counts its storages, and the ledger predicts the same peaks.

python benchmarks/memory/fake_walk.py [--ranks 8 64]. Needs the extra `run`; a minute a row on a quiet core, 1 GB.
"""

import argparse
import time
import warnings

from executor.fsdp_walk import fake_walk
from parsim.memory import memory_of
from parsim.run_plan import plan_of
from parsim.spec import Run, run_from_document

GIB = 2**30
CASES = ((8, True, "none"), (8, False, "full"), (64, True, "full"))  # ranks, sharded again after the forward, recompute


def run_of(ranks: int, reshards: bool, recompute: str, root: str, model: str) -> Run:
    """One sequence of 4096 tokens a rank; fp32 weights, bf16 compute."""
    return run_from_document(
        {
            "model": model,
            "cluster": "local-cpu",
            "layout": {
                **{"mesh": {"dp": ranks}, "fsdp": True, "reshard_after_forward": reshards},
                **{"micro_batch_size": 1, "precision": "bf16", "recompute": recompute},
            },
            "software": {"framework": "pytorch-cpu", "fsdp_root": root},
            "batch": {"sequence_length": 4096, "global_batch_size": ranks},
        }
    )


def main() -> None:
    warnings.filterwarnings("ignore")  # of PyTorch, about fake collectives
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="llama3-8b")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64])
    arguments = parser.parse_args()
    print("| ranks | layers after the forward | recompute | root | walked GiB | ledger GiB | ratio | in | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for ranks, reshards, recompute in CASES:
        for root in ("stays", "reshards") if ranks in arguments.ranks else ():
            run = run_of(ranks, reshards, recompute, root, arguments.model)
            (memory,) = memory_of(run, plan_of(run))
            began = time.perf_counter()
            walked = fake_walk(run).peak_bytes
            lasted = time.perf_counter() - began
            layers, peak = "sharded" if reshards else "whole", memory.peak
            print(
                f"| {ranks} | {layers} | {recompute} | {root} | {walked / GIB:.2f} | {memory.peak_bytes / GIB:.2f} "
                f"| {memory.peak_bytes / walked:.3f} | {peak.reach.op if peak else '-'} | {lasted:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
