"""The commands and their options, as cli.md of the project's public face names them; each is a file of its own."""

from pathlib import Path
from typing import Annotated

import typer

from parsim.cli.exchange import export, import_
from parsim.cli.options import Html, Json, Layers, Png, Trace
from parsim.cli.ramp import ramp
from parsim.cli.scaling import scaling
from parsim.cli.search import search
from parsim.cli.starting import check, init

__all__ = ["app"]

app = typer.Typer(
    name="parsim",
    help="Plan the parallel layout of large-model training: step time, bubbles and memory on every rank.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(value: bool) -> None:
    if value:
        from parsim import __version__

        typer.echo(f"parsim {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that stand before the command."""


@app.command()
def schedule(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|all]", help="A schedule of `parsim list schedules`.")
    ] = None,
    pp: Annotated[int | None, typer.Option(help="Pipeline ranks p.")] = None,
    microbatches: Annotated[
        int | None, typer.Option(help="Micro-batches m of a step (both directions together).")
    ] = None,
    stages_per_rank: Annotated[int | None, typer.Option(help="Stages per rank v.")] = None,
    group_size: Annotated[
        int | None, typer.Option(help="Micro-batch group of `interleaved` (Megatron's short last group).")
    ] = None,
    times: Annotated[
        str, typer.Option(help="Times F, I, W, B, FB, P2P; by stage as F=1:1:1.2. B = I + W, FB = F + B unless given.")
    ] = "F=1,I=1,W=1,P2P=0",
    memory_limit: Annotated[
        float | None, typer.Option(help="Refuse schedules that hold more stage-activations on a rank.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Play a plan of your own (CSV or JSON) instead of NAME.")
    ] = None,
    html: Html = None,
    png: Png = None,
    trace: Trace = None,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", readable=False, help="The plan as PyTorch writes it, compute ops only."),
    ] = None,
    json: Json = None,
) -> None:
    """Play a pipeline schedule at unit times.

    Prints makespan, bubbles and activations in flight; draws the diagram.
    """
    from parsim.cli.schedule import schedule_command

    schedule_command(
        name,
        pp,
        microbatches,
        stages_per_rank,
        group_size,
        times,
        memory_limit,
        plan,
        html=html,
        png=png,
        trace=trace,
        csv=csv,
        json=json,
    )


@app.command()
def simulate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run: a YAML file, or a name of `parsim list runs`.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field, e.g. layout.mesh.tp=4.")
    ] = None,
    engine: Annotated[str, typer.Option(help="path: longest path; events: SimPy. They agree.")] = "path",
    plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Play a plan of your own (CSV or JSON) instead of the run's schedule."),
    ] = None,
    cost: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Measured times instead of predicted ones: of `executor calibrate` or `run`."
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A log of nccl-tests of this cluster: it goes before the model's collectives."
        ),
    ] = None,
    layers: Layers = None,
    contention: Annotated[
        bool,
        typer.Option("--contention", help="Play what is inside the ops on shared links: what meets there slows down."),
    ] = False,
    every_rank: Annotated[
        bool, typer.Option("--every-rank", help="Play every data-parallel replica, not one for all that are alike.")
    ] = False,
    steps: Annotated[int, typer.Option(help="Steps to play, each with jitter of its own.")] = 1,
    jitter: Annotated[
        str | None, typer.Option(metavar="lognormal:SIGMA", help="Random factor of mean 1 on every op.")
    ] = None,
    slow_rank: Annotated[
        list[str] | None, typer.Option(metavar="RANK=FACTOR", help="A rank whose ops take FACTOR times as long.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the jitter (default: the run's).")] = None,
    memory_rank: Annotated[
        int | None,
        typer.Option(metavar="R", help="Pipeline rank whose memory is told byte by byte (default: the worst)."),
    ] = None,
    tokens: Annotated[
        float | None, typer.Option(help="A budget of tokens, as 15e12: its days, GPU-hours, dollars and MWh.")
    ] = None,
    dollars_per_gpu_hour: Annotated[float | None, typer.Option(help="What a GPU-hour costs.")] = None,
    watts_per_gpu: Annotated[float | None, typer.Option(help="What a GPU draws.")] = None,
    timeline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", readable=False, help="The recording as JSON: every op, memory over time."),
    ] = None,
    html: Html = None,
    png: Png = None,
    trace: Trace = None,
    json: Json = None,
) -> None:
    """Predict a training step of a run.

    Prints its time, its bubbles, where the step goes, and the memory of every pipeline rank.
    """
    from parsim.cli.simulate import simulate_command

    simulate_command(
        run,
        tuple(overrides or ()),
        engine,
        plan,
        cost,
        calibration,
        layers,
        contention,
        every_rank,
        steps,
        jitter,
        tuple(slow_rank or ()),
        seed,
        memory_rank,
        tokens,
        dollars_per_gpu_hour,
        watts_per_gpu,
        timeline=timeline,
        html=html,
        png=png,
        trace=trace,
        json=json,
    )


app.command()(search)
app.command()(scaling)
app.command()(ramp)


@app.command()
def collective(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND", help="all_reduce, reduce_scatter, all_gather, broadcast, all_to_all (alltoall) or send."
        ),
    ],
    cluster: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="A cluster of `parsim list clusters`, a cluster file, or a topology of NCCL (XML), nvidia-smi "
            "topo -m or ASTRA-sim.",
        ),
    ],
    sizes: Annotated[
        str,
        typer.Option(
            "--bytes", metavar="SIZES", help="nccl-tests' sizes: 64KiB,1GiB; 1KiB..8GiB doubles from one to the other."
        ),
    ],
    nodes: Annotated[int, typer.Option(help="Nodes that the ranks are on.")] = 1,
    ranks_per_node: Annotated[int | None, typer.Option(help="Ranks on each node (default: all its GPUs).")] = None,
    algorithm: Annotated[
        str | None, typer.Option(help="Force ring, tree, nvls, nvls_tree or collnet, as NCCL_ALGO does.")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="Force LL, LL128 or Simple, as NCCL_PROTO does.")] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A log of nccl-tests on this cluster (or of executor calibrate) to correct by."
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A cluster that says what a topology file does not (NVLink and NIC rates)."),
    ] = None,
    graph: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="What NCCL's search found there (NCCL_GRAPH_DUMP_FILE), instead of its rules."
        ),
    ] = None,
    html: Html = None,
    png: Png = None,
    json: Json = None,
) -> None:
    """How long a collective takes on a cluster.

    Prints time, algbw and busbw of each size as nccl-tests defines them, with the algorithm and protocol that NCCL
    would choose; draws bus bandwidth against size.
    """
    from parsim.cli.collective import collective_command

    collective_command(
        kind,
        cluster,
        nodes,
        ranks_per_node,
        sizes,
        algorithm,
        protocol,
        calibration,
        like,
        graph,
        html=html,
        png=png,
        json=json,
    )


@app.command()
def topology(
    source: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE",
            help="A cluster of `parsim list clusters`, a cluster file, or a file of NCCL (XML), nvidia-smi topo -m, "
            "ASTRA-sim or htsim.",
        ),
    ],
    nodes: Annotated[int | None, typer.Option(help="How many nodes of an elastic cluster or of one node.")] = None,
    sm: Annotated[int | None, typer.Option(help="Compute capability times ten of GPUs whose file is silent.")] = None,
    nvlinks: Annotated[int | None, typer.Option(help="NVLinks of a GPU whose file is silent.")] = None,
    nic: Annotated[
        str | None, typer.Option(metavar="RATE", help="Speed of NICs whose file is silent, as 400Gb/s.")
    ] = None,
    html: Html = None,
    png: Png = None,
    json: Json = None,
) -> None:
    """Show what a cluster or an imported topology consists of.

    Prints devices and links by kind; draws GPUs, NVSwitches, NICs and the tiers of the fabric.
    """
    from parsim.cli.topology import topology_command

    topology_command(source, nodes, sm=sm, nvlinks=nvlinks, nic=nic, html=html, png=png, json=json)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="A timeline or a result of `parsim simulate`.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="Another of the same kind.")],
    html: Html = None,
    json: Json = None,
) -> None:
    """Compare two timelines or two results.

    Predicted and measured, or two layouts: names the causes that add up to the difference.
    """
    from parsim.cli.compare import compare_command

    compare_command(a, b, html=html, json=json)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(metavar="schedules|gpus|clusters|models|runs|searches", help="What to list.")],
    json: Json = None,
) -> None:
    """List what parsim knows by name."""
    from parsim.cli.catalogue import list_command

    list_command(what, json=json)


app.command()(init)
app.command()(check)
app.command()(export)
app.command("import")(import_)
