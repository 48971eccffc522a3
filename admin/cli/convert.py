"""`tenantry config convert`: a configuration of another shape as the native file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import orjson

from admin.cli.failure import Failure
from admin.config.shapes import convert


def run(given: argparse.Namespace) -> int:
    """The file goes to the output, what is to be known of it beside it."""
    found = convert(given.file)
    if given.json:
        told = {
            "shape": found.shape,
            "toml": found.text,
            "ignored": [{"path": path, "why": why} for path, why in found.ignored],
            "notes": found.notes,
        }
        print(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
        return 0
    if given.output is not None:
        _write(given.output, found.text)
    else:
        print(found.text, end="")
    for path, why in found.ignored:
        print(f"ignored: {path}: {why}", file=sys.stderr)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    return 0


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise Failure(f"{path} exists already: name another --output.", 4) from None
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}.") from None
