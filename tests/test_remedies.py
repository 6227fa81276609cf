"""Remedies: what they say is true of the run that they lead to, and they are the fastest of their kind."""

from collections.abc import Sequence

import pytest

from parsim.remedies import remedies_of, step_seconds
from parsim.simulation import simulate
from parsim.spec import Run, load_run

TOO_BIG = (
    ("llama3-70b-64", "layout.micro_batch_size=4"),
    ("llama3-70b-64", "layout.mesh={tp: 2, pp: 4, dp: 64}", "layout.zero=0"),
    ("llama3-405b-16k",),
)


def run_of(named: Sequence[str]) -> Run:
    return load_run(named[0], named[1:])


@pytest.mark.parametrize("named", TOO_BIG, ids=lambda named: " ".join(named))
def test_what_a_remedy_says_holds_for_the_run_it_leads_to(named: Sequence[str]) -> None:
    """Its settings, given as --set takes them, make the run fit, with the time and the peak that it says."""
    run = run_of(named)
    result = simulate(run)
    assert not result.fits
    remedies = remedies_of(run)
    assert 2 <= len(remedies) <= 3
    assert [remedy.step_time_s for remedy in remedies] == sorted(remedy.step_time_s for remedy in remedies)
    for remedy in remedies:
        then = simulate(load_run(named[0], [*named[1:], *remedy.settings]))
        assert then.fits
        assert then.step_time_s == pytest.approx(remedy.step_time_s, rel=1e-9)
        assert then.peak_memory_bytes == pytest.approx(remedy.peak_memory_bytes, rel=1e-12)
        slower = remedy.document(result.step_time_s)["slower"]
        assert slower == pytest.approx(then.step_time_s / result.step_time_s - 1, rel=1e-9)


def test_nothing_helps_where_nothing_can() -> None:
    """One GPU has nobody to share with, and 405 B parameters do not fit into it by recomputation."""
    run = load_run("llama3-405b-16k", ["layout.mesh={tp: 1, pp: 1, dp: 1}", "cluster.nodes=1", "layout.split=even"])
    run = run.changed(layout=run.layout.model_copy(update={"schedule": "1f1b", "stages_per_rank": None}))
    assert remedies_of(run) == ()


def test_few_layers_are_recomputed_where_few_are_enough() -> None:
    """One layer fewer would not fit."""
    run = run_of(TOO_BIG[0])
    times: dict[Run, float] = {}

    def only_full(changed: Run) -> float:
        """Partial recomputation alone is priced as fast."""
        times[changed] = step_seconds(changed)
        return 0.0 if changed.layout.recompute.layers else times[changed]

    best = remedies_of(run, seconds=only_full)[0]
    (setting,) = best.settings
    layers = int(setting.partition("layers: ")[2].rstrip("}"))
    fewer = setting.replace(f"layers: {layers}", f"layers: {layers - 1}")
    assert simulate(load_run(TOO_BIG[0][0], [*TOO_BIG[0][1:], setting])).fits
    assert not simulate(load_run(TOO_BIG[0][0], [*TOO_BIG[0][1:], fewer])).fits


def test_a_host_without_room_is_no_remedy() -> None:
    """Four sequences a micro-batch keep more of a rank's activations waiting than a host of 100 GB has room for."""
    settings = ["layout.micro_batch_size=4", "layout.mesh={tp: 2, pp: 4, dp: 64}"]
    roomy, small = (
        load_run("llama3-70b-64", [*settings, f"cluster.node.host_memory_bytes={size}"]) for size in ("8 TB", "100 GB")
    )
    offload = "layout.offload={activations: true}"
    assert any(offload in remedy.settings for remedy in remedies_of(roomy, most=9))
    assert not any(offload in remedy.settings for remedy in remedies_of(small, most=9))
