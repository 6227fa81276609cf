"""The commands of the executor and their options. What they need is imported when they run, so that help is fast."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from parsim.errors import SpecError

__all__ = ["app"]

app = typer.Typer(
    name="executor",
    help="Play a run's schedule on real processes: gloo on CPUs, NCCL on GPUs; alone, or under torchrun.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _need_torch() -> None:
    if find_spec("torch") is None:
        raise SpecError("the executor needs PyTorch, which is not installed; pip install 'parsim-train[run]' would do")


Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN|PLAN",
        help="A run: a YAML file, or a name of `parsim list runs`. Or a plan (CSV or JSON), with a small model.",
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field, e.g. layout.mesh.pp=2.")
]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", metavar="FILE", help="Play a plan of your own (CSV or JSON) instead of the run's schedule."),
]
DeviceName = Annotated[str, typer.Option("--device", help="cpu (gloo) or cuda (NCCL).")]
Emulate = Annotated[
    bool, typer.Option("--emulate", help="Compute ops are sleeps of their predicted time; messages are real.")
]
Times = Annotated[
    str | None,
    typer.Option("--times", metavar="F=40ms,I=40ms,W=40ms", help="Times of emulated ops; by stage as F=4ms:4ms:5ms."),
]
Steps = Annotated[int, typer.Option("--steps", min=1, help="Steps to record.")]
Warmup = Annotated[int, typer.Option("--warmup", min=0, help="Steps to play before, unrecorded.")]
HangAfter = Annotated[
    float, typer.Option("--hang-after", metavar="SECONDS", help="An op that takes longer than this has hung.")
]
Json = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", readable=False, help="The numbers as JSON; - for standard output."),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", readable=False, help="The recording as JSON: every op, memory over time."),
]


@app.command()
def run(
    run: Run,
    overrides: Overrides = None,
    plan: PlanFile = None,
    device: DeviceName = "cpu",
    emulate: Emulate = False,
    times: Times = None,
    steps: Steps = 5,
    warmup: Warmup = 2,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Play one more step, counting what every rank holds.")
    ] = True,
    inject: Annotated[
        list[str] | None,
        typer.Option(metavar="RANK:OP:KIND[:STEP]", help="A fault to see handled: raise, kill, stop or loop."),
    ] = None,
    hang_after: HangAfter = 120.0,
    out: Out = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", readable=False, help="One offline page with the diagram.")
    ] = None,
    json: Json = None,
) -> None:
    """Play a run and record it.

    Prints step time, bubbles and losses, and writes the recording that `parsim compare` lays beside a prediction.
    """
    _need_torch()
    from executor.run_command import run_command

    run_command(
        run,
        tuple(overrides or ()),
        plan,
        device=device,
        emulate=emulate,
        times=times,
        steps=steps,
        warmup=warmup,
        memory=memory,
        inject=tuple(inject or ()),
        hang_after_s=hang_after,
        out=out,
        html=html,
        json=json,
    )


@app.command()
def calibrate(
    run: Annotated[
        str, typer.Argument(metavar="[RUN]", help="A run: a YAML file, or a name of `parsim list runs`.")
    ] = "tiny-local",
    overrides: Overrides = None,
    collectives: Annotated[
        bool, typer.Option("--collectives", help="Measure collectives too, 64 KiB to 16 MiB, as nccl-tests does.")
    ] = False,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Measure matmuls and attention alone too, for `parsim simulate --layers`.")
    ] = False,
    device: DeviceName = "cpu",
    steps: Steps = 5,
    warmup: Warmup = 2,
    hang_after: HangAfter = 120.0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", readable=False, help="The cost file that `parsim simulate --cost` takes."
        ),
    ] = None,
    json: Json = None,
) -> None:
    """Measure what every op takes on every stage, and what messages take.

    Prints the times, and writes the cost file that `parsim simulate RUN --cost FILE` plays.
    """
    _need_torch()
    from executor.calibrate import calibrate_command

    calibrate_command(
        run,
        tuple(overrides or ()),
        collectives=collectives,
        kernels=kernels,
        device=device,
        steps=steps,
        warmup=warmup,
        hang_after_s=hang_after,
        out=out,
        json=json,
    )


@app.command()
def validate(
    run: Run,
    overrides: Overrides = None,
    plan: PlanFile = None,
    device: DeviceName = "cpu",
    emulate: Annotated[
        bool, typer.Option("--emulate", help="Only the emulated part: ops sleep for their time, nothing is computed.")
    ] = False,
    times: Times = None,
    steps: Annotated[int, typer.Option("--steps", min=3, help="Steps to record; every second one calibrates.")] = 9,
    warmup: Warmup = 2,
    gradients: Annotated[
        bool, typer.Option("--gradients/--no-gradients", help="Compare gradients and losses with a single process.")
    ] = True,
    hang_after: HangAfter = 120.0,
    predicted: Annotated[
        Path | None,
        typer.Option("--predicted", metavar="FILE", readable=False, help="The predicted step, for `parsim compare`."),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option("--measured", metavar="FILE", readable=False, help="A measured step, for `parsim compare`."),
    ] = None,
    json: Json = None,
) -> None:
    """Predict, run, compare: how well the simulator tells time and memory of this machine.

    Five parts that are never mixed: gradients against a single process, replay of measured ops, an advance prediction
    of emulated ops, a prediction of real steps from those between them, and one of every rank's peak of memory.
    """
    _need_torch()
    from executor.validate_command import validate_command

    validate_command(
        run,
        tuple(overrides or ()),
        plan,
        emulate=emulate,
        times=times,
        device=device,
        steps=steps,
        warmup=warmup,
        gradients=gradients,
        hang_after_s=hang_after,
        predicted=predicted,
        measured=measured,
        json=json,
    )
