"""Discovery, names, and what `build` refuses before a schedule is asked."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

import parsim.schedules
from parsim.errors import ScheduleError
from parsim.plan import check
from parsim.schedules import build, get, names, registry

A_SCHEDULE_IN_ONE_FILE = '''
"""One micro-batch at a time: what model parallelism without a pipeline does."""
from parsim.plan import Kind, straight
from parsim.schedules.schedule import Schedule
from parsim.schedules.steady import stage_slots, steady


def _orders(pp, m, v):
    return tuple(
        steady(stage_slots(r, Kind.F, range(m)), stage_slots(r, Kind.B, range(m)), warm_up=0) for r in range(pp)
    )


SCHEDULE = Schedule(name="one-by-one", paper="folklore", placement=lambda pp, v: straight(pp), orders=_orders)
'''


@pytest.fixture
def with_a_file_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The package as if the user had dropped files beside its own."""
    monkeypatch.setattr(parsim.schedules, "__path__", [*parsim.schedules.__path__, str(tmp_path)])
    before = set(sys.modules)
    registry._schedules.cache_clear()
    yield tmp_path
    registry._schedules.cache_clear()
    for module in set(sys.modules) - before:
        del sys.modules[module]


def test_the_eleven_schedules() -> None:
    assert set(names()) == {
        "gpipe",
        "1f1b",
        "interleaved",
        "looped-bfs",
        "interleaved-zb",
        "zb-h1",
        "zb-h2",
        "zb-v",
        "zb-auto",
        "dualpipe",
        "dualpipe-v",
    }


def test_dropping_a_file_in_is_all_it_takes(with_a_file_more: Path) -> None:
    (with_a_file_more / "one_by_one.py").write_text(A_SCHEDULE_IN_ONE_FILE)
    assert "one-by-one" in names()
    plan = build("one-by-one", 2, 2)
    assert [str(slot) for slot in plan.orders[0]] == ["0F0", "0B0", "0F1", "0B1"]
    check(plan)


def test_two_files_may_not_share_a_name(with_a_file_more: Path) -> None:
    (with_a_file_more / "zz.py").write_text(A_SCHEDULE_IN_ONE_FILE.replace("one-by-one", "zb-v"))
    with pytest.raises(ScheduleError, match=r"'zb-v' is defined twice, the second time in parsim\.schedules\.zz"):
        names()


@pytest.mark.parametrize(
    ("name", "hint"),
    [("interleave", "did you mean 'interleaved'"), ("ZB-V", "did you mean 'zb-v'"), ("", "there are 1f1b, dualpipe")],
)
def test_an_unknown_name_is_met_with_a_near_one(name: str, hint: str) -> None:
    with pytest.raises(ScheduleError, match=hint):
        get(name)


def test_an_unknown_option_is_met_with_the_known_ones() -> None:
    with pytest.raises(ScheduleError, match="interleaved has no option 'group'; its options are group_size"):
        build("interleaved", 4, 8, group=4)
    with pytest.raises(ScheduleError, match="gpipe has no option 'group_size'; it takes none"):
        build("gpipe", 4, 8, group_size=4)


def test_refusals_name_the_rule_the_numbers_and_the_way_out() -> None:
    for arguments, options, message in [
        (
            ("interleaved", 4, 11),
            {},
            "micro-batches 11: interleaved at pp 4 needs a multiple of the 2 rounds it makes; 10 or 12 would do",
        ),
        (("dualpipe", 5, 10), {}, "pp 5: dualpipe needs an even number of ranks; 4 or 6 would do"),
        (("dualpipe", 4, 6), {}, "micro-batches 6: dualpipe at pp 4 needs at least 8 (2 pp); 8 would do"),
        (("dualpipe-v", 4, 7), {}, "micro-batches 7: dualpipe-v at pp 4 needs at least 8 (2 pp); 8 would do"),
        (("zb-v", 4, 8, 3), {}, "stages per rank 3: zb-v needs exactly 2; 2 would do"),
        (("1f1b", 4, 8, 2), {}, "stages per rank 2: 1f1b needs exactly 1; 1 would do"),
        (("1f1b", 0, 8), {}, "pp 0: 1f1b needs 1 to 1024 pipeline ranks; 1 would do"),
        (("1f1b", 4, 0), {}, "micro-batches 0: 1f1b at pp 4 needs at least 1; 1 would do"),
        (
            ("interleaved", 4, 11),
            {"group_size": 5},
            "group_size 5: interleaved at pp 4 needs groups of 4 (pp) to 11 (micro-batches) whose short last one "
            "has none or at least 4; 6 would do",
        ),
    ]:
        with pytest.raises(ScheduleError) as refused:
            build(*arguments, **options)
        assert str(refused.value) == message


def test_building_leaves_the_garbage_collector_as_it_was() -> None:
    for switch, running in ((gc.disable, False), (gc.enable, True)):
        switch()
        build("1f1b", 4, 8)
        assert gc.isenabled() is running


def test_importing_the_room_is_cheap() -> None:
    code = (
        "import sys, parsim.schedules as s\n"
        "s.build('1f1b', 4, 8)\n"
        "heavy = {'numpy', 'networkx', 'plotly', 'torch', 'simpy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
