"""Values of the models for people: sizes and durations with units, and what kind a field is."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from events.model import parse_duration, parse_size, parse_unlimited

_SIZES: Final = (("TB", 1024**4), ("GB", 1024**3), ("MB", 1024**2), ("kB", 1024))
_DURATIONS: Final = (("d", 86400.0), ("h", 3600.0), ("min", 60.0))


def kind_of(info: FieldInfo) -> str:
    """ "size" (bytes), "duration" (seconds), "limit" (a number) or "" for every other field."""
    for item in info.metadata:
        if isinstance(item, BeforeValidator):
            if item.func is parse_size:
                return "size"
            if item.func is parse_duration:
                return "duration"
            if item.func is parse_unlimited:
                return "limit"
    return ""


def show(value: Any, info: FieldInfo) -> str:
    """The value in words: `100 MB`, `1 h`, `unlimited`, `yes`. Exact: what has no short form in a
    larger unit stays in the smaller one."""
    kind = kind_of(info)
    if value is None:
        return "unlimited" if kind else ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if kind == "size":
        return _in_units(value, _SIZES, "B")
    if kind == "duration":
        return _in_units(value, _DURATIONS, "s")
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _in_units(value: float, units: tuple[tuple[str, float], ...], smallest: str) -> str:
    for unit, factor in units:
        if value >= factor and value % factor == 0:
            return f"{value / factor:.15g} {unit}"
    return f"{value:.15g} {smallest}"
