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
LONG_FILES: frozenset[str] = frozenset()  # add here only with the reason beside it
UNTESTED: frozenset[str] = frozenset()

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


@pytest.mark.parametrize("name", [name for name in MODULES if name != "wire/tasks.py"])
def test_tasks_are_started_by_spawn_alone(name: str) -> None:
    for node in ast.walk(parsed(name)):
        if isinstance(node, ast.Attribute) and node.attr in ("create_task", "ensure_future"):
            pytest.fail(f"{name}:{node.lineno}: use wire.tasks.spawn instead of {node.attr}")


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
def known_to_tests() -> set[str]:
    """What tests import, and what of the same folder those modules are made of."""
    tests = [name for name in PYTHON if name.startswith("tests/")]
    direct = set().union(*(imported(name) for name in tests))
    parts = set()
    for name in MODULES:
        if dotted(name) in direct:
            folder = dotted(name).rpartition(".")[0]
            parts |= {part for part in imported(name) if part.rpartition(".")[0] == folder}
    return direct | parts


def dotted(name: str) -> str:
    return name.removesuffix(".py").replace("/", ".")


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__init__.py")])
def test_every_module_is_tested_by_name_or_as_part_of_one_that_is(name: str) -> None:
    assert dotted(name) in known_to_tests() or name in UNTESTED, f"no test imports {name}"
