"""Reads configurations of other shapes and brings them to the native one; nothing is lost unsaid.

    map      [multi_tenancy.tenants.acme] isolation = "database"     (design page)
    array    [[multi_tenancy.tenants]] with tables                   (native, and proxy.toml)
    flat     [[multi_tenancy.tenants]] isolation = "schema", …       (proxy.full.toml)
    list     tenants = ["acme", "globex"], tenant_tables, identify_by
    yaml     multi_tenancy: with upstreams:                          (API gateway)

Whatever the native configuration has no place for is told by its path. What is left is what
`tenantry config check` finds correct: keys that it does not take are taken out, and told.
"""

from __future__ import annotations

import copy
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from admin.cli.failure import MISTAKE, Failure
from admin.config.load import Loaded, _make_paths_absolute, load
from admin.config.mistakes import Mistake
from admin.config.shape_tenants import Taken, tenants_of, tiers_of
from admin.config.source import MAX_FILE_BYTES
from admin.config.toml import dumps

# What other proxies clone branches from when nothing says so.
BRANCH_BASE: Final = "postgres"
# Each round takes out at least one key that the native configuration refuses.
ROUNDS_MAX: Final = 50
_STRING_AND_TABLE: Final = re.compile(r'^(\s*)identification(\s*=\s*"[^"]*")', re.MULTILINE)
_PATH: Final = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
# How the other shapes call what we identify by; the rest is for HTTP.
_METHODS: Final = {
    "username_prefix": "username_prefix",
    "database": "database_name",
    "database_name": "database_name",
    "startup_option": "startup_option",
}


@dataclass
class Converted:
    """`settings` is the native configuration; `text` is it as TOML. `ignored` holds (path, why),
    `notes` what somebody should do."""

    shape: str
    settings: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    ignored: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def convert(path: Path, env: Mapping[str, str] = os.environ) -> Converted:
    """Raises Failure for a file that cannot be read at all."""
    return convert_data(_read(path), env)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise Failure(f"{path} is too large.", MISTAKE)
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{path} cannot be read: {error}.", MISTAKE) from None
    if path.suffix.lower() in (".yaml", ".yml"):
        return read_yaml(text, str(path))
    return read_toml(text, str(path))


def read_toml(text: str, name: str) -> dict[str, Any]:
    """TOML, and the one mistake of it that a documented file has: `identification` as a text and
    as a table. Raises Failure."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        mended = _STRING_AND_TABLE.sub(r"\1identification.method\2", text)
        try:
            return tomllib.loads(mended)
        except tomllib.TOMLDecodeError:
            raise Failure(f"{name}: not TOML: {error}.", MISTAKE) from None


def read_yaml(text: str, name: str) -> dict[str, Any]:
    """YAML without tags. Raises Failure."""
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Failure(f"{name}: not YAML: {error}", MISTAKE) from None
    if not isinstance(found, dict):
        raise Failure(f"{name}: there is no table in it.", MISTAKE)
    return found


def shape_of(tenancy: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Which of the shapes it is, by what tenants look like."""
    tenants = tenancy.get("tenants")
    if isinstance(tenants, dict):
        return "map"
    if isinstance(tenants, list) and tenants and all(isinstance(each, str) for each in tenants):
        return "list"
    if "upstreams" in data or _is_gateway(tenancy):
        return "yaml"
    if isinstance(tenants, list):
        tables = [each for each in tenants if isinstance(each, dict)]
        if any(isinstance(each.get("isolation"), str) or "qps_limit" in each for each in tables):
            return "flat"
    return "list" if "identify_by" in tenancy else "array"


def _is_gateway(tenancy: Mapping[str, Any]) -> bool:
    identification = tenancy.get("identification")
    if isinstance(identification, dict):
        methods = identification.get("methods")
        if "type" in identification or (
            isinstance(methods, list) and any(isinstance(each, dict) for each in methods)
        ):
            return True
    tenants = tenancy.get("tenants")
    tables = tenants if isinstance(tenants, list) else []
    tiers = tenancy.get("tiers")
    tables = [*tables, *(tiers.values() if isinstance(tiers, dict) else ())]
    strange = ("quotas", "routing", "upstream", "limits")
    return any(
        isinstance(each, dict)
        and (
            any(name in each for name in strange)
            or "requests_per_second" in (each.get("rate_limits") or {})
        )
        for each in tables
    ) or any(name in tenancy for name in ("config_source", "registration", "feature_flags"))


def convert_data(data: dict[str, Any], env: Mapping[str, str] = os.environ) -> Converted:
    """Any of the shapes as the native one."""
    rest = copy.deepcopy(data)
    tenancy = rest.pop("multi_tenancy", None) or {}
    if not isinstance(tenancy, dict):
        raise Failure("multi_tenancy is no table.", MISTAKE)
    found = Converted(shape_of(tenancy, data))
    native: dict[str, Any] = {}
    made: dict[str, Any] = {}
    taken = Taken(found.ignored, found.notes)
    _identification(tenancy, made, taken, found.shape)
    if "tiers" in tenancy:
        made["tiers"] = tiers_of(tenancy.pop("tiers"), taken)
    tenants = tenants_of(tenancy, made, taken, found.shape)
    for name in list(tenancy):
        if found.shape in ("list", "yaml") and name not in ("enabled", "max_tenants"):
            taken.ignore(f"multi_tenancy.{name}", tenancy.pop(name))
        else:
            made[name] = tenancy.pop(name)
    made["tenants"] = tenants
    if found.shape == "yaml":
        for name in list(rest):
            taken.ignore(name, rest.pop(name))
    native.update(rest)
    native["multi_tenancy"] = made
    if not native.get("nodes"):
        native["nodes"] = [{"embedded": True}]
        found.notes.append(
            "the file names no PostgreSQL: the built-in one stands there; write your own [[nodes]]"
        )
    _name_bases(native, found)
    _take_out_refused(native, found, env)
    if not any("users" in tenant for tenant in native["multi_tenancy"].get("tenants", ())):
        found.notes.append(
            "nobody may log in yet: add users, by `tenantry users add` or in the file"
        )
    found.settings = native
    found.text = dumps(native)
    return found


def _identification(
    tenancy: dict[str, Any], made: dict[str, Any], taken: Taken, shape: str
) -> None:
    at = "multi_tenancy.identification"
    given = tenancy.pop("identification", None)
    if "identify_by" in tenancy:
        name = str(tenancy.pop("identify_by"))
        if name == "database":
            made["identification"] = {"methods": ["database_name"]}
        elif name == "user":
            made["identification"] = {"methods": ["username_prefix"]}
            taken.note("identify_by = user: users are written tenant.user here")
        else:
            made["identification"] = {"methods": ["startup_option"], "option": name}
        return
    if given is None:
        return
    table = {"method": given} if isinstance(given, str) else dict(given)
    # As the file writes it, so that people find it there.
    alone = f"{at}.type" if "type" in table else f"{at}.method" if isinstance(given, dict) else at
    named = table.pop("methods", None)
    first = table.pop("type", None) or table.pop("method", None)
    methods = list(named) if isinstance(named, list) else [first] if first else []
    wanted: list[str] = []
    for number, method in enumerate(methods):
        name = str(method.get("type")) if isinstance(method, dict) else str(method)
        place = f"{at}.methods[{number}]" if named else alone
        if name in _METHODS:
            wanted.append(_METHODS[name])
        else:
            taken.ignored.append((place, f'"{name}" is not how clients of PostgreSQL say it'))
        if isinstance(method, dict):
            for key in [each for each in method if each != "type"]:
                taken.ignore(f"{place}.{key}", method[key])
    result: dict[str, Any] = {"methods": wanted} if wanted else {}
    for key in ("separator", "database_suffix", "option", "fallback"):
        if key in table:
            result[key] = table.pop(key)
    for key, value in table.items():
        taken.ignore(f"{at}.{key}", value)
    if methods and not wanted:
        taken.note("clients name their tenant by user (tenant.user), database or startup option")
    if result:
        made["identification"] = result


def _name_bases(native: dict[str, Any], found: Converted) -> None:
    """Other proxies clone branches from one database of the installation."""
    branch = native.get("branch")
    base = branch.get("base_database", BRANCH_BASE) if isinstance(branch, dict) else BRANCH_BASE
    for tenant in native["multi_tenancy"]["tenants"]:
        isolation = tenant.get("isolation")
        if not isinstance(isolation, dict) or isolation.get("strategy") != "branch":
            continue
        if "branch_base" not in isolation:
            isolation["branch_base"] = base
            found.notes.append(f"tenant {tenant['id']} is cloned from the database {base}")


def load_foreign(path: Path, env: Mapping[str, str]) -> Loaded:
    """A file of another shape as if it were native: what has no place is among the warnings."""
    try:
        data = _read(path)
        _make_paths_absolute(data, Path(os.path.abspath(path)).parent)  # noqa: PTH100
        found = convert_data(data, env)
    except Failure as failure:
        return Loaded(path, mistakes=[Mistake("", 0, str(failure), "Correct it.")])
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "converted.toml"
        place.write_text(found.text)
        loaded = load(place, env)
    loaded.path = path
    # Lines are those of the converted file, which nobody has seen.
    loaded.mistakes = [Mistake(e.path, 0, e.message, e.remedy) for e in loaded.mistakes]
    loaded.warnings = [Mistake(e.path, 0, e.message, e.remedy) for e in loaded.warnings]
    loaded.warnings += [Mistake(at, 0, f"ignored: {why}") for at, why in found.ignored]
    loaded.warnings += [Mistake("", 0, note) for note in found.notes]
    return loaded


def is_foreign(path: Path, data: Mapping[str, Any], readable: bool) -> bool:
    """Whether a file is of another shape than ours."""
    if path.suffix.lower() in (".yaml", ".yml"):
        return True
    if not readable:
        try:
            return bool(_STRING_AND_TABLE.search(path.read_text("utf-8-sig")))
        except (OSError, UnicodeDecodeError):
            return False
    tenancy = data.get("multi_tenancy")
    if not isinstance(tenancy, dict):
        return False
    tenants = tenancy.get("tenants")
    tables = tenants.values() if isinstance(tenants, dict) else ()
    if isinstance(tenants, dict) and not all(isinstance(each, dict) for each in tables):
        return False
    shape = shape_of(tenancy, data)
    # One tenant that is written so among others is a mistake, and told as one.
    return shape in ("map", "list") or (shape == "flat" and all(map(_is_flat, tenants or ())))


def _is_flat(table: Any) -> bool:
    return (
        isinstance(table, dict)
        and isinstance(table.get("isolation"), str)
        and any(name in table for name in ("database", "schema", "qps_limit", "max_connections"))
    )


def _take_out_refused(native: dict[str, Any], found: Converted, env: Mapping[str, str]) -> None:
    """Take out, one after the other, what the native configuration does not take."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "converted.toml"
        for _ in range(ROUNDS_MAX):
            place.write_text(dumps(native))
            loaded = load(place, env)
            removed = [each for each in loaded.mistakes if _remove(native, each)]
            for each in removed:
                found.ignored.append((each.path, each.message))
            if not removed:
                break
    for mistake in loaded.mistakes:
        found.notes.append(f"still to correct: {mistake.text('the result')}")
    for warning in loaded.warnings:
        if "has no users" not in warning.message:
            found.notes.append(f"{warning.path}: {warning.message}")
    made = native["multi_tenancy"]
    if not made.get("identification", True):
        del made["identification"]


def _remove(native: dict[str, Any], mistake: Mistake) -> bool:
    """Whether the key was there; variables that are not set are the reader's to set."""
    if "environment variable" in mistake.message:
        return False
    steps: list[str | int] = [
        int(number) if number else name for number, name in _PATH.findall(mistake.path)
    ]
    if not steps:
        return False
    below: Any = native
    for step in steps[:-1]:
        try:
            below = below[step]
        except (KeyError, IndexError, TypeError):
            return False
    last = steps[-1]
    if isinstance(below, dict) and last in below and last not in ("id", "tenants", "nodes"):
        del below[last]
        return True
    return False
