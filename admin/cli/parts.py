"""What the parsers of all commands are made of."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from admin.cli.parser import Parser

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Parser]

DATA_DIR: Final = ".tenantry"
DATA_DIR_VARIABLE: Final = "TENANTRY_DATA_DIR"


def command(
    commands: Commands,
    name: str,
    about: str,
    run: Callable[[argparse.Namespace], int] | None,
    *examples: str,
) -> Parser:
    made = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog="\n  ".join(("examples:", *examples)) if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.examples = examples
    # Wherever people write it; without a default, which would undo what stands before.
    hidden = argparse.SUPPRESS
    made.add_argument("--debug", action="store_true", default=hidden, help=hidden)
    if run is not None:
        made.set_defaults(run=run)
    return made


def group(commands: Commands, name: str, about: str) -> Commands:
    made = command(commands, name, about, None)
    return made.add_subparsers(title="commands", metavar="COMMAND", required=True)


def data_dir(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get(DATA_DIR_VARIABLE) or DATA_DIR),
        help=f"where the installation keeps its files (default: ${DATA_DIR_VARIABLE}, {DATA_DIR})",
    )


def config_file(command: argparse.ArgumentParser, about: str) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help=about)


def as_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="answer as JSON, for programs")


def number(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text} is not a number from {least} to {most}")
        return int(text)

    return number
