"""Mistakes in a configuration file and their wording: `file:line: path: what. What to do.`"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

Key = tuple[str | int, ...]
"""Place of a value: keys, and positions in arrays."""

# For kinds of errors whose own words speak of types: message and remedy.
_WHOLE = ("must be a whole number", "Write it in digits.")
_NUMBER = ("must be a number", "Write it in digits.")
_SWITCH = ("must be true or false", "Write one of them, without quotes.")
_PLAIN = {
    "string_type": ("must be text", "Put it in double quotes."),
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "bool_type": _SWITCH,
    "bool_parsing": _SWITCH,
    "dict_type": ("must be a table", 'Write { key = "value" }.'),
    "tuple_type": ("must be a list", "Write it in [ ], or as [[ ]] when it holds tables."),
    "string_too_short": ("must not be empty", "Write something between the quotes."),
    "string_pattern_mismatch": ("is not a SCRAM-SHA-256 verifier", "Copy it whole."),
}

# Values under these keys are never shown, not even when they are of the wrong type.
SECRET_KEYS = frozenset({"password", "scram"})


@dataclass(frozen=True)
class Mistake:
    """One thing to correct. `path` is a dotted key, "" for the file; `line` counts from 1, and is 0
    when it is not known."""

    path: str
    line: int
    message: str
    remedy: str = ""

    def text(self, file: str) -> str:
        """The mistake as one line for people."""
        where = f"{file}:{self.line}" if self.line else file
        what = f"{self.path}: {self.message}" if self.path else self.message
        return f"{where}: {what}.{' ' + self.remedy if self.remedy else ''}"


def dotted(key: Key) -> str:
    """`multi_tenancy.tenants[1].pool.min_idle`."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def explain(error: ErrorDetails, root: type[BaseModel]) -> tuple[Key, str, str]:
    """Key, message and remedy of one error found by the models, in plain words."""
    key: Key = error["loc"]
    kind = error["type"]
    context = error.get("ctx", {})
    if kind == "extra_forbidden":
        return key, "unknown key", _did_you_mean(key, root)
    if kind == "missing":
        return key, "is required", "Add it."
    if kind == "value_error":
        message, _, remedy = str(context["error"]).partition("; ")
        return key, message, _sentence(remedy)
    if kind == "literal_error":
        return key, f"{_shown(error)}is not known", f"Use {context['expected']}."
    if kind in ("model_type", "model_attributes_type"):
        header = dotted(tuple([part for part in key if isinstance(part, str)]))
        return key, "must be a table", f"Write its keys below [{header}]."
    if kind in _PLAIN:
        message, remedy = _PLAIN[kind]
        return key, f"{_shown(error)}{message}", remedy
    message = error["msg"].removeprefix("Input should ")
    message = message.replace("be ", "must be ", 1) if message.startswith("be ") else message
    return key, f"{_shown(error)}{message}", "Change the value."


def _shown(error: ErrorDetails) -> str:
    value = error["input"]
    secret = SECRET_KEYS & set(error["loc"])
    if secret or isinstance(value, dict | list | tuple):
        return ""
    return f'"{value}" ' if isinstance(value, str) else f"{value} "


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".") if text else ""


def _did_you_mean(key: Key, root: type[BaseModel]) -> str:
    """Names that exist at that place and look alike; or the sub-table that has this very name."""
    model = model_at(root, key[:-1])
    name = str(key[-1])
    if model is None:
        return "Remove it."
    inside = [
        field
        for field, info in model.model_fields.items()
        if (sub := model_of(info.annotation)) is not None and name in sub.model_fields
    ]
    if inside:
        return f'Did you mean "{name}" in the table "{inside[0]}"?'
    near = difflib.get_close_matches(name, model.model_fields, 1)
    if near:
        return f'Did you mean "{near[0]}"?'
    return f"Known here: {', '.join(sorted(model.model_fields))}."


def model_at(root: type[BaseModel], key: Key) -> type[BaseModel] | None:
    """The model that describes the table at `key`."""
    model: type[BaseModel] | None = root
    named = False
    for part in key:
        if isinstance(part, int) or named:
            # The number of an item, or the name that somebody gave to it.
            named = False
            continue
        info = model.model_fields.get(part) if model is not None else None
        model = model_of(info.annotation) if info is not None else None
        named = info is not None and get_origin(info.annotation) is dict
    return model


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The model within an annotation: itself, optional, annotated, or the item of a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (tuple, dict, Annotated, Union, UnionType):
        for inner in get_args(annotation):
            found = model_of(inner)
            if found is not None:
                return found
    return None
