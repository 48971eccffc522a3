"""Writes TOML: what `tenantry config convert` puts out. https://toml.io/en/v1.0.0"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
# An inline table up to here stays in one line.
INLINE_MAX: Final = 100


def dumps(data: Mapping[str, Any]) -> str:
    """`data` as a file; None values are left out, for TOML has none. Raises TypeError."""
    lines: list[str] = []
    _table(data, (), lines)
    return "\n".join(lines).strip() + "\n"


def _table(data: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    later: list[tuple[str, Any]] = []
    for key, value in data.items():
        if value is None:
            continue
        if (isinstance(value, Mapping) and not _fits(key, value, path)) or _tables(value):
            later.append((key, value))
        else:
            lines.append(f"{_key(key)} = {_value(value)}")
    for key, value in later:
        place = (*path, key)
        name = ".".join(map(_key, place))
        if isinstance(value, Mapping):
            lines += ["", f"[{name}]"]
            _table(value, place, lines)
            continue
        for each in value:
            lines += ["", f"[[{name}]]"]
            _table(each, place, lines)


def _fits(key: str, value: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    """Small tables within others are easier to read in one line."""
    if not path or any(isinstance(each, Mapping | list) for each in value.values()):
        return False
    return len(key) + len(_value(value)) <= INLINE_MAX


def _tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(e, Mapping) for e in value)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    # JSON's escapes are TOML's; DEL is the one character that only TOML wants escaped.
    return orjson.dumps(text).decode().replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(each) for each in value) + "]"
    if isinstance(value, Mapping):
        inside = (f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None)
        return "{ " + ", ".join(inside) + " }"
    raise TypeError(f"{type(value).__name__} has no place in TOML")
