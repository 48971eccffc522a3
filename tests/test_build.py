"""The installed build is what the tests believe it is, and the set-up explains what it lacks."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import wire

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HOT = [path for path in PROJECT["tool"]["tenantry"]["hot"] if (ROOT / path).exists()]
NATIVE = tuple(importlib.machinery.EXTENSION_SUFFIXES)


def is_native(path: str) -> bool:
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    return str(module.__file__).endswith(NATIVE)


def test_all_hot_modules_are_compiled_or_none() -> None:
    assert HOT
    assert len({is_native(path) for path in HOT}) == 1


def test_child_processes_run_the_same_build() -> None:
    show = [sys.executable, "-c", "import wire; print(wire.__file__)"]
    seen = subprocess.run(show, cwd="/", capture_output=True, text=True, check=True)
    assert Path(ROOT, seen.stdout.strip()).resolve() == Path(wire.__file__).resolve()


def test_constraints_pin_every_installed_dependency_exactly() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {canonical(name) for name in pins}
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    wanted += PROJECT["project"]["optional-dependencies"]["dev"]
    seen: set[str] = set()
    while wanted:
        name = canonical(re.split(r"[\[<>=!~; ]", wanted.pop())[0])
        if name in seen:
            continue
        seen.add(name)
        assert name in pinned, f"{name} is not pinned"
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another Python or system
        wanted += [text for text in requires if ";" not in text]
    assert all(re.fullmatch(r"[\w.]+", version) for version in pins.values())


def canonical(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of a checkout as the set-up looks at, without an environment."""
    for part in ("tools", "pyproject.toml", "constraints.txt", "Makefile"):
        source = ROOT / part
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / part)
    return tmp_path


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=checkout, capture_output=True, text=True, check=False, env=clean
    )


def test_no_python_is_explained(checkout: Path) -> None:
    done = make(checkout, "setup", "PYTHON=")
    assert done.returncode != 0
    assert "Python 3.11 or newer was not found: install it, or name it with" in done.stderr


def test_an_old_python_is_explained(checkout: Path) -> None:
    script = (
        "import sys, runpy; sys.version_info = (3, 9); sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], {}, '__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, checkout / "tools" / "set_up.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Tenantry needs Python 3.11 or newer and this is 3.9" in done.stderr


def test_a_missing_venv_module_is_explained(checkout: Path) -> None:
    script = (
        "import sys, runpy; sys.modules['ensurepip'] = None; sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], {}, '__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, checkout / "tools" / "set_up.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Debian and Ubuntu: python3-venv" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_teaches_the_commands(checkout: Path) -> None:
    shown = make(checkout).stdout
    for command in ("demo", "test", "setup", "lint", "bench", "fuzz", "soak"):
        assert f"make {command} " in shown
