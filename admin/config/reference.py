"""Writes docs/configuration.md from the models, so that the page cannot lag behind the code.

`python -m admin.config.reference` writes it; a test fails when that was forgotten.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from admin.config.mistakes import model_of
from admin.config.models import FileConfig
from admin.config.support import UNUSED
from events.model import DDL_OPERATIONS, OPERATIONS
from events.units import kind_of, show

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"

INTRODUCTION = """\
# Configuration

<!-- Written by `python -m admin.config.reference` from the models. Change those, not this page. -->

Tenantry reads one TOML file: `tenantry serve --config FILE`. `tenantry config check FILE` shows
what it comes to, or every mistake at once. [example.toml](example.toml) is a complete file to start
from.

- **Sizes** are bytes, or text such as `"64kB"`, `"100MB"`, `"1GB"` (1 kB is 1024 bytes).
  **Durations** are seconds, or text such as `"500ms"`, `"30s"`, `"5min"`, `"1h"`, `"1d"`. Where a
  limit may be absent, `"unlimited"` says so.
- **Variables**: `${NAME}` in a value is replaced by the environment variable, `${NAME:-other}` by
  `other` when it is not set or empty; `$${` stands for the characters `${`. A variable can also
  give a number or a switch (`port = "${PGPORT:-5432}"`) or, with commas, a list
  (`servers = "${NATS}"`).
- **Paths** count from the directory of the file.
- **Precedence**: what a tenant sets counts before its tier, that before
  `[multi_tenancy.default]`, and that before the defaults on this page.
- **Unknown keys** are mistakes. Keys that are known but do nothing yet are accepted with a warning;
  they are marked below.
- **The file is a way to give commands.** At start, on SIGHUP and, with `serve --watch`, when it
  changes, it is compared with the log, and only what differs is stored. Tenants that the file does
  not name are left alone; whether a tenant is enabled stays as it is unless the file says so.
  Without a file the installation runs as the log says.
"""


def page() -> str:
    """The whole page as Markdown."""
    parts = [INTRODUCTION, _section("At the top of the file", "", FileConfig)]
    parts += _below(FileConfig, "")
    parts.append(_operations())
    return "\n".join(parts)


def _below(model: type[BaseModel], prefix: str) -> list[str]:
    """The sections of the tables within `model`, depth first."""
    parts: list[str] = []
    for name, info in model.model_fields.items():
        table = model_of(info.annotation)
        if table is None:
            continue
        path = f"{prefix}{name}"
        if path == "multi_tenancy.default":
            parts.append(_defaults(path, table))
            continue
        if path == "multi_tenancy.tiers":
            parts.append(_tiers(path, table))
            continue
        is_array = get_origin(info.annotation) is tuple
        parts.append(_section(f"`[[{path}]]`" if is_array else f"`[{path}]`", path, table))
        parts += _below(table, f"{path}.")
    return parts


def _section(title: str, path: str, model: type[BaseModel]) -> str:
    own = "" if model is FileConfig else " ".join((inspect.getdoc(model) or "").split())
    told = descriptions(model)
    rows = [
        _row(f"{path}.{name}" if path else name, name, info, told.get(name, ""))
        for name, info in model.model_fields.items()
        if model_of(info.annotation) is None
    ]
    head = f"## {title}\n\n" + (f"{own}\n\n" if own else "")
    if not rows:
        return head
    return head + "| key | value | default | meaning |\n|---|---|---|---|\n" + "".join(rows)


def _row(path: str, name: str, info: FieldInfo, told: str) -> str:
    assert told, f"{path} has no description: write one under the field"
    if path in UNUSED:
        default, reason = UNUSED[path]
        which = "Not used yet" if default is None else f"Only `{json.dumps(default)}` so far"
        told += f" *{which}: {reason}.*"
    cells = (f"`{name}`", value_text(info), default_text(info), told)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _defaults(path: str, table: type[BaseModel]) -> str:
    return (
        f"## `[{path}]`\n\nSettings of tenants that do not set them, and whose tier does not: "
        f"{_names(path, table)}, each with the keys of the same table of a tenant.\n"
    )


def _tiers(path: str, table: type[BaseModel]) -> str:
    return (
        f"## `[{path}.<name>]`\n\nSettings that many tenants share: those that name the tier "
        f'(`tier = "<name>"`) and do not set them. {_names(f"{path}.<name>", table)}, each with '
        "the keys of the same table of a tenant.\n"
    )


def _names(path: str, table: type[BaseModel]) -> str:
    return ", ".join(f"`[{path}.{name}]`" for name in table.model_fields)


def _operations() -> str:
    ddl = ", ".join(sorted(DDL_OPERATIONS))
    other = ", ".join(sorted(OPERATIONS - DDL_OPERATIONS))
    return (
        f"## Operations\n\n`allowed_operations` may name: {other}.\n\n"
        f"Changes of definitions can be named too, or be allowed all at once by `allow_ddl`: {ddl}."
        "\n\nWhat only steers the session (BEGIN, SET, SHOW, PREPARE, FETCH …) "
        "needs no permission.\n"
    )


def value_text(info: FieldInfo) -> str:
    """What may be written, in words."""
    text = {"size": "size", "duration": "duration", "limit": "number"}.get(kind_of(info))
    if text is not None:
        optional = NoneType in get_args(info.annotation)
        return f'{text} or `"unlimited"`' if optional else text
    return _type_text(info.annotation, tuple(info.metadata))


def _type_text(annotation: Any, metadata: tuple[Any, ...]) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        flat: list[Any] = []
        for item in more:
            flat += getattr(item, "metadata", None) or [item]
        return _type_text(inner, tuple(flat))
    if origin in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        return " or ".join(_type_text(kind, metadata) for kind in kinds)
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in get_args(annotation))
    if origin is tuple:
        return f"list of {_type_text(get_args(annotation)[0], ())}"
    if origin is dict:
        return "table of texts" if get_args(annotation)[1] is str else "table"
    words = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text"}
    return words[annotation] + "".join(_bound(item) for item in metadata)


def _bound(item: Any) -> str:
    if isinstance(item, Ge):
        return f", at least {item.ge}"
    if isinstance(item, Gt):
        return f", more than {item.gt}"
    return f", at most {item.le}" if isinstance(item, Le) else ""


def default_text(info: FieldInfo) -> str:
    if info.default is PydanticUndefined:
        return "empty" if info.default_factory is not None else "required"
    text = show(info.default, info)
    if isinstance(info.default, bool):
        return "`true`" if info.default else "`false`"
    return text if kind_of(info) else f"`{text}`" if text else "–"


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Field → the string below it in the source. Read here and not by pydantic: only this page
    needs it, and reading source text would slow down every start of the proxy."""
    told: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, BaseModel) or cls is BaseModel:
            continue
        tree = ast.parse(inspect.getsource(cls)).body[0]
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                told[field.target.id] = " ".join(str(below.value.value).split())
    return told


def main() -> int:
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
