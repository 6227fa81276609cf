"""`parsim scaling`: a model's tokens and compute by the scaling laws."""

from typing import Annotated, Any

import typer

from parsim.cli.options import Json
from parsim.cli.output import Outputs, json_text
from parsim.errors import SpecError
from parsim.scaling import LAWS, Scale, growth, kaplan_frontier, of_flops, of_parameters

__all__ = ["scaling"]


def scaling(
    parameters: Annotated[float | None, typer.Option(help="N, as 70e9.")] = None,
    flops: Annotated[float | None, typer.Option(help="C, as 6.3e24.")] = None,
    law: Annotated[str, typer.Option(help="kaplan or chinchilla.")] = "chinchilla",
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="A GPU of `parsim list gpus`: also the GPU-hours of C on it.")
    ] = None,
    mfu: Annotated[float, typer.Option(help="The share of the GPU's bf16 peak that GPU-hours count with.")] = 0.4,
    json: Json = None,
) -> None:
    """How many tokens a model should see, by the scaling laws.

    Prints parameters N, tokens D and compute C = 6 N D of a model or of a budget, and what the other law says.
    """
    outputs = Outputs(json=json)
    if (parameters is None) == (flops is None):
        raise SpecError("scaling: give either --parameters N or --flops C")
    names = [law, *(name for name in LAWS if name != law)]
    asked, *others = [_scale(name, parameters, flops) for name in names]
    document: dict[str, Any] = {
        "schema_version": "1.0",
        "given": "flops" if parameters is None else "parameters",
        **_row(asked),
        "others": [*map(_row, others), _row(kaplan_frontier(asked.flops))],
        "growth": [{"law": name, "tokens_of_8_times": growth(name, 8)} for name in names],
    }
    if gpu is not None:
        document |= {"gpu": gpu, "mfu": mfu, "gpu_hours": _gpu_hours(asked.flops, gpu, mfu)}
    if outputs.wants("json"):
        outputs.put("json", json_text(document))
    outputs.write()
    if not outputs.quiet:
        from parsim.report.explanation_table import print_scaling

        print_scaling(document)


def _scale(law: str, parameters: float | None, flops: float | None) -> Scale:
    if parameters is not None:
        return of_parameters(parameters, law)
    assert flops is not None
    return of_flops(flops, law)


def _row(scale: Scale) -> dict[str, Any]:
    source = LAWS[scale.law].source if scale.law in LAWS else "Kaplan et al. 2020, equation 1.7: stops early"
    return {**scale.document(), "source": source}


def _gpu_hours(flops: float, gpu: str, mfu: float) -> float:
    from parsim.explanation.budget import gpu_hours_at
    from parsim.spec import load_gpu

    return gpu_hours_at(flops, load_gpu(gpu).peak_flops_per_s("bf16"), mfu)
