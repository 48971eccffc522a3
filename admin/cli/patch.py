"""Settings as people write them on a command line, or in a file.

rate_limits.qps_limit=200 name="Acme Corp" permissions.blocked_tables='["audit"]'
pool.max_connections=            (nothing: back to the default)
--file patch.toml                (TOML, or JSON; `-` is standard input)
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from admin.cli.failure import MISTAKE, Failure
from events.model import Settings
from events.settings import merge

# A tenant's settings are a few kB; what is larger is not a patch.
FILE_BYTES_MAX: Final = 512 * 1024
# Texts as JSON and TOML write them: what looks like a number or a list otherwise is one.
_WORDS: Final = {"true": True, "false": False, "null": None}


def read_patch(assignments: Sequence[str], file: str | None) -> Settings:
    """What the file says, and over it what is assigned. Raises Failure (wrong usage)."""
    patch = {} if file is None else _read(file)
    for text in assignments:
        path, equals, value = text.partition("=")
        keys = [key.strip() for key in path.split(".")]
        if not equals or not all(keys):
            raise Failure(
                f'"{text}" is not a setting: write e.g. rate_limits.qps_limit=200.', MISTAKE
            )
        below: Any = _value(value)
        for key in reversed(keys):
            below = {key: below}
        patch = _laid_over(patch, below)
    return patch


def _laid_over(patch: Settings, more: Settings) -> Settings:
    """As merge, but None stays: in a patch it says "back to the default"."""
    result = dict(patch)
    for key, value in more.items():
        before = result.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            result[key] = _laid_over(before, value)
        else:
            result[key] = value
    return result


def _value(text: str) -> Any:
    """JSON where it is JSON, else text: `200`, `true`, `["a"]`, `"a b"`, `100MB`, `unlimited`."""
    text = text.strip()
    if not text:
        return None
    if text in _WORDS:
        return _WORDS[text]
    try:
        return orjson.loads(text)
    except ValueError:
        return text


def _read(file: str) -> Settings:
    try:
        data = sys.stdin.buffer.read(FILE_BYTES_MAX + 1) if file == "-" else _bytes_of(file)
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}. Name a file that can be read.", MISTAKE) from None
    if len(data) > FILE_BYTES_MAX:
        raise Failure(f"{file} is over {FILE_BYTES_MAX} bytes.", MISTAKE)
    name = "standard input" if file == "-" else file
    try:
        text = data.decode()
        found = orjson.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except ValueError as error:
        raise Failure(f"{name} is neither JSON nor TOML: {error}.", MISTAKE) from None
    assert isinstance(found, dict)
    return found


def _bytes_of(file: str) -> bytes:
    with Path(file).open("rb") as source:
        return source.read(FILE_BYTES_MAX + 1)


def without_nothing(patch: Settings) -> Settings:
    """For settings that are put rather than changed: None says nothing there."""
    return merge({}, patch)
