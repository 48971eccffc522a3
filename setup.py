"""The build: compiles the hot modules with mypyc where that is possible, and says so where not.

TENANTRY_COMPILE decides: `auto` (default) compiles when it can and otherwise leaves the modules to
the interpreter with one line of explanation, `0` never compiles, `require` fails instead. The
modules are listed in pyproject.toml, `[tool.tenantry] hot`, beside everything else.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import tomllib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
CHOICE = os.environ.get("TENANTRY_COMPILE", "auto")


def say(text: str) -> None:
    """One line that tools/set_up.py finds in the build's output and shows."""
    print(f"tenantry: {text}", flush=True)


def interpreted(reason: str) -> None:
    """Explain why nothing is compiled, or fail when it was required."""
    if CHOICE == "require":
        raise SystemExit(f"tenantry: compiling was required, but {reason}")
    say(f"runs in the interpreter (slower, nothing else changes): {reason}")


def lacking() -> str:
    """What this machine lacks for compiling; empty when it lacks nothing."""
    if CHOICE == "0":
        return "TENANTRY_COMPILE=0 asks for it"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return "Python's C headers are missing (Debian: python3-dev)"
    from setuptools._distutils.ccompiler import new_compiler
    from setuptools._distutils.sysconfig import customize_compiler

    compiler = new_compiler()
    customize_compiler(compiler)
    probe = ROOT / "build" / "probe.c"
    probe.parent.mkdir(exist_ok=True)
    probe.write_text("int tenantry_probe(void) { return 0; }\n")
    try:
        compiler.compile([str(probe)], output_dir="/")
    except Exception:  # its class differs between versions of setuptools
        return "no working C compiler was found (Debian: build-essential)"
    try:
        import mypyc.build  # noqa: F401
    except ImportError:
        return "mypyc is not installed"
    return ""


def extensions() -> list[Extension]:
    """One group of extension modules for all hot modules, or none."""
    if reason := lacking():
        interpreted(reason)
        return []
    from mypyc.build import mypycify

    hot = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["tenantry"]["hot"]
    present = [path for path in hot if (ROOT / path).exists()]
    # Types are judged by `make lint`. Here missing packages may not matter: an isolated build
    # has none of the dependencies.
    options = ["--config-file=", "--ignore-missing-imports"]
    try:
        found = mypycify([*options, *present], opt_level="3", debug_level="0")
    except SystemExit as error:
        interpreted(f"mypyc refuses a module ({error}; its reason is printed above)")
        return []
    say(f"compiling {len(present)} modules")
    return list(found)


class BuildOrInterpret(build_ext):
    """Compiles; when the compiler fails, the wheel is built without extension modules."""

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            for extension in self.extensions:
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            self.extensions = []
            interpreted(f"the compiler failed: {error}")


# Asking for metadata must not compile anything.
BUILDING = any(command in sys.argv for command in ("bdist_wheel", "build", "build_ext", "install"))

setup(
    ext_modules=extensions() if BUILDING else [],
    cmdclass={"build_ext": BuildOrInterpret},
)
