"""The price of a backward in two: (I + W) / B, ours and PyTorch's, in turn in one process.

    python benchmarks/speed/split_backward.py                a table
    python benchmarks/speed/split_backward.py --json -       the figures as JSON

A stage of four layers in fp32. `ours` stores the linears' work; `torch` is `stage_backward_input` and `_weight` on the
same layers with PyTorch's own linears. Each is divided by the whole backward (B) that was run beside it: ours by ours,
and both by PyTorch's. A ratio is the median of the runs' ratios; the quartiles say how far it strays.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import executor.model
from executor.initial import fill
from executor.model import PartModule
from executor.split_backward import embedding, linear
from executor.stage import Split, Stage
from parsim.spec import ModelSpec

STYLES: dict[str, dict[str, Any]] = {
    "llama": {"ffn": 1408},
    "gpt": {
        **{"ffn": 2048, "gated_mlp": False, "norm": "layer", "positions": "learned", "max_positions": 2048},
        **{"attention_bias": True, "output_bias": True, "mlp_bias": True},
    },
}
LAYERS = 4
SIDES: dict[str, tuple[Split, bool]] = {"ours": ("stored", True), "torch": ("torch", False)}
"""How the backward is split, and whether the linears are ours."""


@contextmanager
def linears(are_ours: bool) -> Iterator[None]:
    """Layers inside compute with our linears, or PyTorch's."""
    executor.model.linear = linear if are_ours else functional.linear  # type: ignore[attr-defined]
    executor.model.embedding = embedding if are_ours else functional.embedding  # type: ignore[attr-defined]
    try:
        yield
    finally:
        executor.model.linear, executor.model.embedding = linear, embedding  # type: ignore[attr-defined]


def stage_of(style: str, hidden: int, mode: str, split: Split) -> Stage:
    """A middle stage."""
    document = {"name": style, "layers": LAYERS, "hidden": hidden, "heads": hidden // 64, "vocab": 64, **STYLES[style]}
    document["ffn"] = document["ffn"] * hidden // 512
    model = ModelSpec.model_validate(document)
    module = PartModule(model, range(LAYERS), first=False, last=False, device="cpu", dtype=torch.float32)
    for name, parameter in module.weights():
        fill(parameter, name, 0, LAYERS)
        parameter.grad = torch.zeros_like(parameter)
    module.recompute(mode, LAYERS)
    return Stage(module, split=split)


def measure(style: str, hidden: int, length: int, mode: str, runs: int) -> dict[str, Any]:
    """Seconds of B, I and W of both sides, and their ratios."""
    x, grad = torch.randn(1, length, hidden), torch.randn(1, length, hidden)
    stages = {side: stage_of(style, hidden, mode, split) for side, (split, _) in SIDES.items()}
    times: dict[str, list[float]] = {f"{side}_{part}": [] for side in SIDES for part in ("b", "i", "w")}

    def timed(name: str, play: Any, *arguments: Any) -> None:
        began = time.perf_counter()
        play(*arguments)
        times[name].append(time.perf_counter() - began)

    for run in range(runs + 3):
        for side in sorted(SIDES, reverse=run % 2 == 0):
            stage = stages[side]
            with linears(SIDES[side][1]):
                for is_cut in (False, True) if run % 4 < 2 else (True, False):
                    stage.forward(0, x)
                    if is_cut:
                        timed(f"{side}_i", stage.backward_input, 0, grad)
                        timed(f"{side}_w", stage.backward_weight, 0)
                    else:
                        timed(f"{side}_b", stage.backward, 0, grad)
    kept = {name: row[3:] for name, row in times.items()}
    split = {side: [i + w for i, w in zip(kept[f"{side}_i"], kept[f"{side}_w"], strict=True)] for side in SIDES}
    return {
        **{"style": style, "hidden": hidden, "length": length, "recompute": mode, "runs": runs},
        **{f"{name}_s": statistics.median(row) for name, row in kept.items()},
        "ours": quartiles(split["ours"], kept["ours_b"]),
        "torch": quartiles(split["torch"], kept["torch_b"]),
        "ours_to_torch_b": quartiles(split["ours"], kept["torch_b"]),
        "b_to_torch_b": quartiles(kept["ours_b"], kept["torch_b"]),
    }


def quartiles(above: list[float], below: list[float]) -> list[float]:
    """Quartiles of the runs' ratios; the middle one is the median."""
    return statistics.quantiles([a / b for a, b in zip(above, below, strict=True)], n=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512, help="width of the layers (default 512)")
    parser.add_argument("--length", type=int, default=128, help="tokens of a micro-batch (default 128)")
    parser.add_argument("--runs", type=int, default=20, help="runs of each (default 20)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (default 1)")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    found = [
        measure(style, options.hidden, options.length, mode, options.runs)
        for style in STYLES
        for mode in ("none", "full", "selective")
    ]
    document = {"torch": torch.__version__, "threads": options.threads, "figures": found}
    if options.json == "-":
        print(json.dumps(document, indent=2))
    else:
        if options.json:
            Path(options.json).write_text(json.dumps(document, indent=2) + "\n")
        show(found, sys.stdout)


def show(found: list[dict[str, Any]], out: Any) -> None:
    """One line a measurement: milliseconds, then ratios with their quartiles."""
    names = {"ours": "(I + W) / B", "torch": "torch (I + W) / B", "b_to_torch_b": "B / torch B"}
    heads = "".join(f"{head:>26}" for head in names.values())
    print(f"{'':16}{'B':>9}{'I':>9}{'W':>9} ms{heads}", file=out)
    for row in found:
        lasted = "".join(f"{1e3 * row[f'ours_{part}_s']:9.2f}" for part in "biw")
        ratios = "".join(f"{row[name][1]:12.3f} [{row[name][0]:.2f}, {row[name][2]:.2f}]" for name in names)
        print(f"{row['style'] + ' ' + row['recompute']:16}{lasted}   {ratios}", file=out)


if __name__ == "__main__":
    main()
