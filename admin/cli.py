"""The command line: `tenantry --help`. Errors are a sentence or two with what to do, never a trace.

Exit codes: 0 done, 1 failed, 2 wrong usage or mistakes in the configuration file.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from admin.failure import FAILED, Failure
from admin.logs import masked

DATA_DIR: Final = ".tenantry"
DATA_DIR_VARIABLE: Final = "TENANTRY_DATA_DIR"

_ABOUT: Final = """\
One PostgreSQL endpoint for many tenants, each sealed from the rest.

See it at work, with PostgreSQL and NATS started for you:
  tenantry demo

Then with a configuration file of your own (the documentation has an example to start from):
  tenantry config check tenantry.toml      every mistake at once, or what the file comes to
  tenantry serve --config tenantry.toml    start; Ctrl-C drains and stops
  psql -h 127.0.0.1 -p 6432 -U acme.appuser -d shared_db

While it runs:
  tenantry apply tenantry.toml --dry-run   what a changed file would change
  tenantry apply tenantry.toml             change it, for connected clients too
  tenantry tenants list                    who there is

Started again without a file, it serves what its data directory knows:
  tenantry serve
"""
_END: Final = f"""\
The data directory is {DATA_DIR}, unless --data-dir or {DATA_DIR_VARIABLE} names another.
`tenantry COMMAND --help` tells more of each command."""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _parser(prog="tenantry", description=_ABOUT, epilog=_END)
    top.add_argument("--debug", action="store_true", help="show traces and more of the log")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    _serve(commands)
    _demo(commands)
    _config(commands)
    _apply(commands)
    _tenants(commands)
    _engines(commands)
    version = _add(commands, "version", "print the version", "tenantry version")
    version.set_defaults(run=_version)
    return top


def _parser(**options: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options
    )


Commands = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add(commands: Commands, name: str, about: str, *examples: str) -> argparse.ArgumentParser:  # type: ignore[valid-type]
    made: argparse.ArgumentParser = commands.add_parser(  # type: ignore[attr-defined]
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {each}" for each in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # Wherever people write it; without a default, so as not to undo what stands before.
    made.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    return made
