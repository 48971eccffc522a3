"""The rules of the house that no linter knows: sizes, directions, leftovers, tested modules."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("events", "wire", "actors", "admin")  # each may import those before it, and itself
PYTHON_FOLDERS = (*PACKAGES, "tests", "bench", "tools")

FUNCTION_LINES = 70  # what fits on a screen can be judged at a glance
FILE_LINES = 500  # a file longer than this has more than one job
# Add here only with the reason beside it.
LONG_FILES = frozenset(
    {
        # One table of behaviour each, on one set of small actors: apart they would repeat them.
        "tests/actors/test_dispatcher.py",
        "tests/actors/test_runtime_actor.py",
    }
)
UNTESTED = frozenset(
    {
        # Run as `python -m admin.cli` by every test that starts an installation.
        "admin/cli/__main__.py",
    }
)

# Put together here, so that this file does not trip over itself.
LEFTOVERS = re.compile(r"\b(FIX" + r"ME|X" + r"XX)\b")
HOSTS_AND_MACHINES = re.compile(
    "|".join(["py" + "pi\\.org", "python" + "hosted", "npm" + "js\\.", "deb" + "\\.debian"])
    + "|(?<![\\w.])/(?:ro"
    + "ot|ho"
    + "me/\\w+|wo"
    + "rk)/"
)


@cache
def project_files() -> list[str]:
    """Every file that is or would be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    if not listed:  # an unpacked archive rather than a clone
        folders = (*PYTHON_FOLDERS, "docs", ".ci")
        listed = [str(path.relative_to(ROOT)) for f in folders for path in (ROOT / f).rglob("*")]
    return sorted(name for name in listed if (ROOT / name).is_file())


PYTHON = [
    name
    for name in project_files()
    if name.endswith(".py") and name.split("/")[0] in (*PYTHON_FOLDERS, "setup.py")
]
MODULES = [name for name in PYTHON if name.split("/")[0] in PACKAGES]


@cache
def parsed(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(), name)


def imported(name: str) -> set[str]:
    """The dotted names that a file imports, those for type checking included."""
    found = set()
    for node in ast.walk(parsed(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("name", PYTHON)
def test_functions_fit_on_a_screen(name: str) -> None:
    for node in ast.walk(parsed(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines < FUNCTION_LINES, f"{name}:{node.lineno}: {node.name} has {lines} lines"


@pytest.mark.parametrize("name", PYTHON)
def test_files_have_one_job_and_say_which(name: str) -> None:
    lines = len((ROOT / name).read_text().splitlines())
    assert lines < FILE_LINES or name in LONG_FILES, f"{name} has {lines} lines"
    assert ast.get_docstring(parsed(name)), f"{name} has no docstring"


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way(name: str) -> None:
    allowed = PACKAGES[: PACKAGES.index(name.split("/")[0]) + 1]
    for module in imported(name):
        top = module.split(".")[0]
        assert top not in PACKAGES or top in allowed, f"{name} imports {module}"


@pytest.mark.parametrize("name", MODULES)
def test_parsers_know_nothing_of_the_event_loop(name: str) -> None:
    if name == "wire/postgres/protocol.py" or name.startswith("wire/sql/"):
        assert not {"asyncio", "uvloop"} & {module.split(".")[0] for module in imported(name)}


@pytest.mark.parametrize("name", MODULES)
def test_no_task_is_started_and_forgotten(name: str) -> None:
    """Loops hold tasks weakly: a forgotten one can vanish, and its failure is never seen."""
    for node in ast.walk(parsed(name)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func)
            naked = called.endswith(("create_task", "ensure_future")) and "group" not in called
            assert not naked, f"{name}:{node.lineno}: use wire.tasks.spawn instead of {called}"


@pytest.mark.parametrize("name", project_files())
def test_no_leftovers_and_nothing_of_this_machine(name: str) -> None:
    try:
        text = (ROOT / name).read_text()
    except UnicodeDecodeError:
        return
    for number, line in enumerate(text.splitlines(), 1):
        found = LEFTOVERS.search(line) or HOSTS_AND_MACHINES.search(line)
        assert not found, f"{name}:{number}: {found and found.group()}"


@cache
def reached_by_tests() -> set[str]:
    """What tests import or start as `python -m`, and what those modules do in turn."""
    waiting = {name for test in PYTHON if test.startswith("tests/") for name in used(test)}
    files = {dotted(name): name for name in MODULES}
    reached: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in files and module not in reached:
            reached.add(module)
            waiting |= used(files[module])
    return reached


def used(name: str) -> set[str]:
    """What a file imports, and its strings: a module's name among them starts a process."""
    constants = (node for node in ast.walk(parsed(name)) if isinstance(node, ast.Constant))
    return imported(name) | {node.value for node in constants if isinstance(node.value, str)}


def dotted(name: str) -> str:
    return name.removesuffix(".py").replace("/", ".")


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__init__.py")])
def test_every_module_is_reached_by_a_test(name: str) -> None:
    assert dotted(name) in reached_by_tests() or name in UNTESTED, f"no test reaches {name}"
