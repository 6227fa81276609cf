"""Small searches: spaces that everything in them can be played of."""

import random
from typing import Any

from parsim.spec import Search
from parsim.spec.load import search_from_document

GIB = 2.0**30


def document(seed: int = 0, **space: Any) -> dict[str, Any]:
    """A random small search; `space` fixes some of its fields."""
    rng = random.Random(seed)

    def some(values: list[Any], most: int = 2) -> list[Any]:
        return sorted(rng.sample(values, rng.randint(1, min(most, len(values)))), key=values.index)

    gated = rng.random() < 0.5
    fields = {
        "schedule": some(["1f1b", "interleaved", "gpipe", "zb-h1", "zb-v", "interleaved-zb", "zb-h2"], 3),
        "stages_per_rank": {"most": 3},
        "split": some(["even", "ends_one_fewer", "balanced"]),
        "micro_batch_size": {"most": 2},
        "recompute": some(["none", "selective", "full"]),
        "zero": some([0, 1, 2, 3]),
        "tp_comm": some(["all_reduce", "sequence_parallel"], 1),
        "tp_overlap": some(["none", "te_userbuffers"], 1),
        "dp_overlap": some([True, False], 1),
        "cp": {"most": rng.choice([1, 2])},
        "tp": {"most": 4},
        **space,
    }
    return {
        "name": f"small-{seed}",
        "model": {
            "name": "tiny",
            "layers": rng.choice([4, 6, 8]),
            "hidden": 1024,
            "heads": 8,
            "ffn": 4096,
            "vocab": 8192,
            "gated_mlp": gated,
            "norm": "rms" if gated else "layer",
        },
        "cluster": {"name": rng.choice(["dgx-h100", "dgx-a100"]), "nodes": rng.choice([1, 2])},
        "batch": {"sequence_length": 1024, "global_batch_size": rng.choice([16, 32])},
        "space": fields,
        "reserve_bytes": 80 * GIB - rng.choice([0.6, 1.0, 4.0]) * GIB,
    }


def small(seed: int = 0, **space: Any) -> Search:
    """The search of `document`."""
    return search_from_document(document(seed, **space))
