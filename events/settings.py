"""Settings are nested dicts of what somebody set: merging, comparing and normalising them.

In a patch `None` removes a key, which puts it back to its default. Stored settings therefore hold
no `None`: "unlimited" is stored as that word, and parsed again whenever a model is resolved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from events.model import Settings

UNLIMITED = "unlimited"

AnyModel = TypeVar("AnyModel", bound=BaseModel)


def merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> Settings:
    """`base` with `patch` laid over it, neither changed. Lists are replaced whole."""
    merged: Settings = dict(base)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            below = merged.get(key)
            merged[key] = merge(below if isinstance(below, dict) else {}, value)
        else:
            merged[key] = value
    return merged


def with_strategy_defaults(merged: Settings) -> Settings:
    """`merged` (all layers of a tenant's settings) with what depends on its strategy: EXPLAIN tells
    of other tenants' rows, so a row tenant has it only when somebody allowed it by name."""
    isolation, permissions = merged.get("isolation"), merged.get("permissions")
    if not isinstance(isolation, dict) or isolation.get("strategy") != "row":
        return merged
    own = permissions if isinstance(permissions, dict) else {}
    return {**merged, "permissions": {"allow_explain": False, **own}}


def diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> Settings:
    """The smallest patch for which merge(old, patch) == new. Neither side may hold `None`."""
    patch: Settings = {key: None for key in old if key not in new}
    for key, value in new.items():
        if key not in old:
            patch[key] = value
            continue
        before = old[key]
        if isinstance(before, dict) and isinstance(value, dict):
            below = diff(before, value)
            if below:
                patch[key] = below
        elif before != value:
            patch[key] = value
    return patch


def prune(settings: Mapping[str, Any]) -> Settings:
    """Without `None`, and without the sub-tables that hold nothing: both say nothing."""
    kept: Settings = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            below = prune(value)
            if below:
                kept[key] = below
        elif value is not None:
            kept[key] = value
    return kept


def canonical(model: BaseModel) -> Settings:
    """What was set explicitly in `model`, normalised: two spellings of one value become one.

    The model must have been made from pruned settings: then a `None` in it can only have been the
    word "unlimited", and is written as that.
    """
    spelled = _spell_unlimited(model.model_dump(mode="json", exclude_unset=True))
    return prune(spelled)


def _spell_unlimited(value: Any) -> Any:
    if value is None:
        return UNLIMITED
    if isinstance(value, dict):
        return {key: _spell_unlimited(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_spell_unlimited(below) for below in value]
    return value


def read_leniently(model: type[AnyModel], settings: Settings) -> AnyModel:
    """`settings` as a model, leaving out the keys that only a newer writer knows.

    Raises pydantic.ValidationError when anything else is wrong.
    """
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        mistakes = error.errors(include_input=False, include_url=False)
        if any(mistake["type"] != "extra_forbidden" for mistake in mistakes):
            raise
        for mistake in mistakes:
            settings = _without(settings, mistake["loc"])
        return model.model_validate(settings)


def _without(value: Any, path: tuple[int | str, ...]) -> Any:
    """A copy of `value` that lacks what `path` leads to."""
    step, rest = path[0], path[1:]
    if isinstance(value, dict):
        if not rest:
            return {key: below for key, below in value.items() if key != step}
        return {key: _without(v, rest) if key == step else v for key, v in value.items()}
    return [_without(v, rest) if index == step else v for index, v in enumerate(value)]
