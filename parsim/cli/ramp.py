"""`parsim ramp`: what a growing global batch costs a run."""

from typing import Annotated

import typer

from parsim.cli.options import Json
from parsim.cli.output import Outputs, json_text

__all__ = ["ramp"]


def ramp(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run file, or the name of a bundled run.")],
    start: Annotated[int, typer.Option(help="The first global batch, in sequences.")],
    increment: Annotated[int, typer.Option(help="By how much it grows at a time.")],
    samples: Annotated[float, typer.Option(help="Sequences until the run's own global batch is reached, as 1e6.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the run.")
    ] = None,
    json: Json = None,
) -> None:
    """What a growing global batch costs: step time and bubble of each size, and over the whole ramp.

    START, INCREMENT and SAMPLES are those of Megatron's --rampup-batch-size.
    """
    from parsim.explanation.ramp import BatchRamp, RampStage, ramp_batches
    from parsim.simulation import simulate
    from parsim.spec import Run, load_run

    outputs = Outputs(json=json)
    whole = load_run(run, tuple(overrides or ()))

    def stage(batch: int, steps: int) -> RampStage:
        sized: Run = whole.changed(batch=whole.batch.model_copy(update={"global_batch_size": batch}))
        result = simulate(sized)
        bubble = result.bubble.of_makespan
        return RampStage(batch, sized.microbatches, steps, result.step_time_s, bubble, result.mfu)

    full = whole.batch.global_batch_size
    stages = tuple(stage(batch, steps) for batch, steps in ramp_batches(start, increment, samples, full))
    found = BatchRamp(stages, stage(full, 1), whole.batch.sequence_length)
    document = {"schema_version": "1.0", "run": whole.name, **found.document()}
    if outputs.wants("json"):
        outputs.put("json", json_text(document))
    outputs.write()
    if not outputs.quiet:
        from parsim.report.explanation_table import print_ramp

        print_ramp(document)
