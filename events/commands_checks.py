"""Settings as a command brings them: normalised, or with everything that is wrong with them."""

from __future__ import annotations

import difflib
import unicodedata
from typing import Any, Final

import orjson
from pydantic import BaseModel, ValidationError

from events.commands_model import Mistake
from events.installation import Installation
from events.model import Settings, Tenant
from events.personal import PREFIX, is_erasable
from events.secrets import is_sealed
from events.settings import canonical, merge, prune

# What only other commands may set, and who does.
_NOT_SETTINGS: Final = {"provisioned": "provisioning", "version": "the log"}
# Defaults hold for every tenant; these name one tenant or let somebody in.
_NOT_DEFAULTS: Final = ("id", "name", "enabled", "users", "provisioned", "version", "tier")
# A tier says how much, never where: a change of tier must not move anybody's data.
_NOT_IN_TIERS: Final = (*_NOT_DEFAULTS, "isolation", "metadata")

# Instead of words that speak of parsers.
_PLAIN: Final = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "string_type": "must be text",
}

CONTROLS: Final = "may not hold control characters"

# The id is judged apart from the settings; this one keeps its mistakes from being told twice.
_VALID_ID: Final = "a"


def check_tenant(id: str, settings: Settings, below: Settings, mistakes: list[Mistake]) -> Settings:
    """`settings` normalised; what is wrong, alone or on top of what is `below` them (defaults and
    tier), joins `mistakes`."""
    settings = prune(settings)
    if settings.pop("id", id) != id:
        mistakes.append(Mistake("id", "settings name another tenant"))
    for key, owner in _NOT_SETTINGS.items():
        if settings.pop(key, None) is not None:
            mistakes.append(Mistake(key, f"is set by {owner} only"))
    try:
        alone = Tenant.model_validate({**settings, "id": _VALID_ID})
        Tenant.model_validate({**merge(below, settings), "id": _VALID_ID})
    except ValidationError as error:
        mistakes += told(error)
        return {}
    if is_erasable(alone.name):
        mistakes.append(Mistake("name", f"may not begin with {PREFIX}"))
    names = [user.name for user in alone.users]
    # Whoever lists tenants and users does so on a terminal, or in a log line.
    if not is_plain(alone.name):
        mistakes.append(Mistake("name", CONTROLS))
    mistakes += [
        Mistake(f"users.{at}.name", CONTROLS) for at, name in enumerate(names) if not is_plain(name)
    ]
    if len(set(names)) != len(names):
        mistakes.append(Mistake("users", "names somebody twice"))
    wanted = _storable(alone, mistakes)
    wanted.pop("id", None)
    return wanted


def is_plain(name: str) -> bool:
    return all(unicodedata.category(character) != "Cc" for character in name)


def check_tier(settings: Settings, below: Settings, mistakes: list[Mistake]) -> Settings:
    """What a tier sets, normalised."""
    for key in _NOT_IN_TIERS:
        if key in settings:
            mistakes.append(Mistake(f"settings.{key}", "cannot be set by a tier"))
    allowed = {key: value for key, value in settings.items() if key not in _NOT_IN_TIERS}
    found: list[Mistake] = []
    wanted = check_tenant(_VALID_ID, allowed, below, found)
    mistakes += [Mistake(f"settings.{each.path}", each.message, each.hint) for each in found]
    return wanted


def check_installation(settings: Settings, mistakes: list[Mistake]) -> Settings:
    """The installation's settings, normalised."""
    settings = prune(settings)
    wanted: Settings = {}
    try:
        installation = Installation.model_validate(settings)
    except ValidationError as error:
        mistakes += told(error)
    else:
        wanted = _storable(installation, mistakes)
        for index, node in enumerate(installation.nodes):
            if node.password and not is_sealed(node.password):
                where = f"nodes.{index}.password"
                mistakes.append(Mistake(where, "must be sealed before it becomes an event"))
    mistakes += _check_defaults(settings.get("defaults", {}))
    return wanted


def _check_defaults(defaults: Any) -> list[Mistake]:
    if not isinstance(defaults, dict):
        return []
    mistakes = [
        Mistake(f"defaults.{key}", "cannot have a default for all tenants")
        for key in _NOT_DEFAULTS
        if key in defaults
    ]
    allowed = {key: value for key, value in defaults.items() if key not in _NOT_DEFAULTS}
    try:
        Tenant.model_validate({**allowed, "id": _VALID_ID})
    except ValidationError as error:
        mistakes += [Mistake(f"defaults.{each.path}", each.message) for each in told(error)]
    return mistakes


def _storable(model: BaseModel, mistakes: list[Mistake]) -> Settings:
    """The settings of `model` as they come back from storage. Infinity, not-a-number, integers over
    64 bits and broken Unicode are not JSON; stored, they would become something else."""
    try:
        stored: Settings = orjson.loads(orjson.dumps(canonical(model)))
        type(model).model_validate(stored)
        return stored
    except (TypeError, ValueError):
        mistakes.append(Mistake("", "holds a number or text that cannot be stored as JSON"))
        return {}


def told(error: ValidationError, prefix: str = "") -> list[Mistake]:
    """Pydantic's findings as mistakes. The values are left out: they may be secrets."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    return [
        _mistake(prefix, ".".join(map(str, each["loc"])), each["type"], each["msg"])
        for each in found
    ]


def _mistake(prefix: str, path: str, kind: str, message: str) -> Mistake:
    if kind == "extra_forbidden":
        meant = _meant(path)
        return Mistake(prefix + path, "is not known", f"Did you mean {meant}?" if meant else "")
    plain = _PLAIN.get(kind) or message.removeprefix("Value error, ")
    return Mistake(prefix + path, plain)


def _meant(path: str) -> str:
    """The setting of a tenant that `path` probably is: the same name in another part, or one like
    it in the same part; "" when there is none."""
    part, _, name = path.rpartition(".")
    known = _paths(Tenant, "")
    elsewhere = [each for each in known if each.rpartition(".")[2] == name]
    if elsewhere:
        return elsewhere[0]
    beside = [each for each in known if each.rpartition(".")[0] == part]
    near = difflib.get_close_matches(path, beside, 1) or difflib.get_close_matches(path, known, 1)
    return near[0] if near else ""


def _paths(model: type[BaseModel], prefix: str) -> list[str]:
    """The dotted names of all settings."""
    found: list[str] = []
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += _paths(inner, f"{prefix}{name}.")
        elif name not in _NOT_SETTINGS:
            found.append(prefix + name)
    return found
