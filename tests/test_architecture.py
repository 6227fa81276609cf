"""Who may import whom, which library lives in which room, and that every module says what it exports."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import parsim

ROOT = Path(parsim.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py") if "topologies" not in path.parts)

# Data flows left to right only: a room may import itself and what stands here.
BASE = {"errors", "units"}
MAY_IMPORT = {
    "errors": set(),
    "units": BASE,
    "files": BASE,
    "plan": BASE,
    "schedules": BASE | {"plan"},
    "spec": BASE | {"files"},
    "model": BASE | {"spec"},
    "axes": BASE | {"spec", "model"},
    "network": BASE | {"files", "spec", "axes"},
    "timeline": BASE | {"plan"},
    "cost": BASE | {"spec", "model", "axes", "network", "plan", "timeline", "memory"},
    "memory": BASE | {"spec", "model", "axes", "plan", "timeline"},
    "sim": BASE | {"plan", "cost", "network", "memory", "timeline"},
    "metrics": BASE | {"spec", "model", "plan", "memory", "timeline"},
    "comparison": BASE | {"files", "spec", "model", "plan", "memory", "timeline", "metrics"},
    "report": BASE | {"spec", "model", "plan", "memory", "timeline", "metrics", "comparison", "network", "explanation"},
    "scaling": BASE,
    "explanation": BASE | {"spec", "model", "axes", "cost", "plan", "timeline", "metrics"},
    "run_plan": BASE | {"spec", "plan", "schedules", "cost", "memory"},
    "exchange": BASE | {"files", "spec", "axes", "network", "plan", "schedules", "run_plan", "cost", "timeline"},
    "step_result": BASE | {"spec", "model", "plan", "memory", "timeline", "metrics", "explanation"},
}
SEES_ALL = {"parsim", "cli", "remedies", "schedule_result", "search", "simulation"}
HOME_OF = {
    "pydantic": {"spec"},
    "simpy": {"sim"},
    "networkx": {"network"},
    "plotly": {"report"},
    "kaleido": {"report"},
    "torch": set(),
    "executor": set(),
}

# The executor stands beside the package: what plays sees the score, and never a prediction.
EXECUTOR = ROOT.parent / "executor"
EXECUTOR_MODULES = sorted(EXECUTOR.glob("*.py"))
PLAYERS_MAY_IMPORT = BASE | {"spec", "model", "axes", "plan", "schedules", "run_plan", "timeline", "cost.unit"}
FRONT = {"__main__", "calibrate", "commands", "emulation_times", "run_command", "validate", "validate_command"}
WITHOUT_TORCH = {"__init__", "__main__", "commands", "errors", "fault", "job"}


def room_of(path: Path) -> str:
    if path.parent == EXECUTOR:
        return "executor"
    relative = path.relative_to(ROOT)
    return (
        "parsim"
        if relative.name == "__init__.py" and len(relative.parts) == 1
        else relative.parts[0].removesuffix(".py")
    )


def imports_of(path: Path) -> set[str]:
    """Dotted names of everything a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            # `from parsim import plan` imports a room, `from parsim.plan import Op` a name of one.
            found.update(f"{module}.{alias.name}" if module == "parsim" else module for alias in node.names)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_rules(path: Path) -> None:
    room = room_of(path)
    for name in imports_of(path):
        top, *rest = name.split(".")
        if top == "parsim" and rest and room not in SEES_ALL:
            assert rest[0] in MAY_IMPORT[room] | {room}, f"{room} may not import {name}"
        if top in HOME_OF:
            assert room in HOME_OF[top], f"{top} is imported in {room}; its home is {HOME_OF[top] or 'elsewhere'}"


@pytest.mark.parametrize("path", EXECUTOR_MODULES, ids=lambda path: f"executor/{path.name}")
def test_what_plays_never_sees_a_prediction(path: Path) -> None:
    for name in imports_of(path):
        top, _, rest = name.partition(".")
        if top == "parsim" and path.stem not in FRONT:
            room = rest if rest in PLAYERS_MAY_IMPORT else rest.partition(".")[0]
            assert room in PLAYERS_MAY_IMPORT, f"executor/{path.name} may not import {name}"
        assert top not in {"simpy", "networkx", "plotly", "pydantic"}, f"{top} is imported in executor/{path.name}"
        if path.stem in WITHOUT_TORCH:
            assert top != "torch", f"executor/{path.name} is read for --help: no torch"


@pytest.mark.parametrize("path", [*MODULES, *EXECUTOR_MODULES], ids=lambda path: str(path.relative_to(ROOT.parent)))
def test_every_module_exports_what_it_says(path: Path) -> None:
    tree = ast.parse(path.read_text())
    if room_of(path) in {"parsim", "cli"} or path.stem in {"__main__", "commands"}:
        return
    if path.parent == EXECUTOR:
        pytest.importorskip("torch", reason="the extra [run] is not installed")
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    module = importlib.import_module(
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    )
    names = getattr(module, "__all__", None)
    assert names is not None, f"{path} has no __all__"
    assert len(set(names)) == len(names)
    assert all(hasattr(module, name) for name in names)
    assert defined <= set(names), f"public but not exported: {sorted(defined - set(names))}"


def test_the_public_api_is_what_it_says() -> None:
    assert all(hasattr(parsim, name) for name in parsim.__all__)
    assert set(parsim.__all__) <= set(dir(parsim))


def test_files_stay_near_three_hundred_lines() -> None:
    modules = [*MODULES, *EXECUTOR_MODULES]
    long = {
        str(path.relative_to(ROOT.parent)): n for path in modules if (n := len(path.read_text().splitlines())) > 340
    }
    assert not long, f"two nouns in one file? {long}"


@pytest.mark.parametrize(("app", "command"), [("parsim.cli.commands", "schedule"), ("executor.commands", "validate")])
def test_help_imports_nothing_heavy(app: str, command: str) -> None:
    code = (
        f"import sys, parsim.cli as cli, {app} as commands\n"
        "code = cli.run_app(commands.app, 'name', ['--help'])\n"
        "heavy = {'numpy', 'networkx', 'plotly', 'torch', 'simpy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert command in done.stdout
