"""`tenantry help settings`: every setting of a tenant, by the name that commands take."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import fill
from typing import Final

from pydantic import BaseModel

from admin.cli.failure import MISSING, Failure
from admin.config.mistakes import model_at, model_of
from admin.config.models import FileConfig
from admin.config.reference import default_text, descriptions, value_text

WIDTH: Final = 96
_BEGIN: Final = """\
Settings of a tenant, as `tenantry tenants create|change` and `tenantry tiers put` take them
(KEY=VALUE), and as they stand in a file below [[multi_tenancy.tenants]]. KEY= is the default again.
"""
_END: Final = """\
for example:
  tenantry tenants create acme isolation.strategy=schema isolation.database_name=shared_db
  tenantry tenants change acme rate_limits.qps_limit=200 rate_limits.max_query_duration=30s
  tenantry tenants change acme 'permissions.allowed_operations=["SELECT"]'
`tenantry help settings pool` shows those whose name has "pool" in it."""


def text(part: str) -> str:
    """All settings whose name has `part` in it. Raises Failure when there is none."""
    model = model_at(FileConfig, ("multi_tenancy", "tenants", 0))
    assert model is not None
    found = [told for name, told in _settings(model, "") if part in name]
    if not found:
        raise Failure(
            f'No setting has "{part}" in its name: see `tenantry help settings`.', MISSING
        )
    return "\n".join((_BEGIN, *found, "", _END))


def _settings(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
    """Name and description, depth first."""
    about = descriptions(model)
    for name, info in model.model_fields.items():
        inner = model_of(info.annotation)
        if name == "users" or (not prefix and name == "id"):
            continue  # `tenantry users` is for the first; the other is the tenant itself
        if inner is not None:
            yield from _settings(inner, f"{prefix}{name}.")
            continue
        value = value_text(info).replace("`", "")
        default = default_text(info).replace("`", "")
        words = f"{value}; default {default}. {about.get(name, '')}".replace("`", "")
        indent = " " * 4
        told = fill(words, WIDTH, initial_indent=indent, subsequent_indent=indent)
        yield f"{prefix}{name}", f"  {prefix}{name}\n{told}"
