"""Loads a configuration file: everything it says as models, or everything that is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from admin.config import rules as config_rules
from admin.config import support as config_support
from admin.config.mistakes import Key, Mistake, explain
from admin.config.models import FileConfig, FileMultiTenancy
from admin.config.rules import EVENTS_FILES
from admin.config.source import Source, read
from events.installation import Installation
from events.model import Settings
from events.settings import canonical

# Each round takes out what the models found wrong, so that the rules can judge the rest; more than
# one is needed when a value hides another (a table that was none).
_ROUNDS: Final = 4


@dataclass
class Loaded:
    """A configuration file, read. With mistakes there is no installation and there are no tenants.

    `tiers` holds (name, settings), `tenants` (id, settings): only what the file sets, normalised.
    A user with a password is there by name only; the password is in `passwords` under (tenant,
    user) and nowhere else.
    """

    path: Path
    installation: Installation | None = None
    tiers: list[tuple[str, Settings]] = field(default_factory=list)
    tenants: list[tuple[str, Settings]] = field(default_factory=list)
    passwords: dict[tuple[str, str], str] = field(default_factory=dict, repr=False)
    mistakes: list[Mistake] = field(default_factory=list)
    warnings: list[Mistake] = field(default_factory=list)


def load(path: Path, env: Mapping[str, str]) -> Loaded:
    """Read and judge the file; `env` fills in `${NAME}`. Raises nothing: see `.mistakes`."""
    # It needs this module.
    from admin.config.shapes import is_foreign, load_foreign

    source = read(path, env)
    if is_foreign(path, source.data, source.readable):
        return load_foreign(path, env)
    loaded = Loaded(path)
    if source.readable:
        config_support.take_out_unavailable(source.data, source)
        config_support.settle_methods(source.data, source)
        _make_paths_absolute(source.data, Path(os.path.abspath(path)).parent)  # noqa: PTH100
        file = _validated(source)
        if file is not None:
            config_rules.check(file, source)
            config_support.warn_unused(file.model_dump(exclude_unset=True), source)
            if not source.mistakes:
                _fill(loaded, file)
    loaded.mistakes = sorted(source.mistakes, key=lambda mistake: mistake.line)
    loaded.warnings = sorted(source.warnings, key=lambda warning: warning.line)
    return loaded


def _make_paths_absolute(data: dict[str, Any], base: Path) -> None:
    """Paths in the file count from the file's directory, wherever the program was started."""
    tables: list[tuple[Any, tuple[str, ...]]] = [
        (data.get("tls"), ("cert_path", "key_path", "ca_path")),
        (data.get("admin"), ("cert_path", "key_path", "ca_path")),
        (data.get("events"), ("data_dir", *EVENTS_FILES)),
    ]
    nodes = data.get("nodes")
    if isinstance(nodes, list):
        tables += [(node, ("sslrootcert",)) for node in nodes]
    for table, names in tables:
        for name in names:
            value = table.get(name) if isinstance(table, dict) else None
            if isinstance(value, str) and value and (name, value) != ("sslrootcert", "system"):
                table[name] = str(base / value)


def _validated(source: Source) -> FileConfig | None:
    """The file as models; what they refuse is told and left out."""
    data = source.data
    for _ in range(_ROUNDS):
        try:
            return FileConfig.model_validate(data)
        except ValidationError as error:
            for found in error.errors(include_url=False):
                _tell(found, source)
                data = _mended(data, found["loc"])
    return None


def _tell(found: ErrorDetails, source: Source) -> None:
    key, message, remedy = explain(found, FileConfig)
    if key not in source.unset:  # told already, with the variable's name
        source.mistake(key, message, remedy)


def _mended(data: Any, key: Key) -> Any:
    """`data` without the wrong value at `key`, so that all the rest can be checked. Positions in
    arrays must stay as they are: a wrong item takes its array along, and a tenant without a
    usable id gets one that is good enough to go on (nothing is applied after a mistake)."""
    step, rest = key[0], key[1:]
    if isinstance(data, list) and isinstance(step, int) and rest and step < len(data):
        return [_mended(item, rest) if at == step else item for at, item in enumerate(data)]
    if not isinstance(data, dict):
        return data
    below = data.get(str(step))
    if not rest or not isinstance(below, dict | list) or (len(rest) == 1 and type(below) is list):
        kept = {name: value for name, value in data.items() if name != step}
        if step in ("id", "name"):
            kept[str(step)] = config_rules.UNNAMED
        return kept
    return {**data, step: _mended(below, rest)}


def _fill(loaded: Loaded, file: FileConfig) -> None:
    tenancy = file.multi_tenancy
    loaded.installation = Installation.model_validate(_installation_settings(file))
    loaded.tiers = [(name, canonical(tier)) for name, tier in tenancy.tiers.items()]
    for tenant in tenancy.tenants:
        settings = canonical(tenant)
        del settings["id"]
        if tenant.users:
            settings["users"] = [
                {"name": user.name, **({"scram": user.scram} if user.scram else {})}
                for user in tenant.users
            ]
        for user in tenant.users:
            if user.password is not None:
                loaded.passwords[tenant.id, user.name] = user.password
        loaded.tenants.append((tenant.id, settings))


def _installation_settings(file: FileConfig) -> Settings:
    """What the file sets of the installation, in the arrangement of `Installation`."""
    settings = canonical(file)
    tenancy = settings.pop("multi_tenancy", {})
    defaults = tenancy.pop("default", {})
    if defaults:
        settings["defaults"] = defaults
    for name in FileMultiTenancy.model_fields:
        if name in Installation.model_fields and name in tenancy:
            settings[name] = tenancy[name]
    if not file.events.servers and "embedded" not in file.events.model_fields_set:
        # No word about the log means the built-in one; said outright for all who read it later.
        settings["events"] = {**settings.get("events", {}), "embedded": True}
    return settings
