"""Commits to bytes and back. Old versions are brought up to date on the raw dict.

Stored form (JSON): {"v": 1, "id": …, "actor": …, "time": …, "events": [{"type", "v", "data"}, …]}.
Reading never fails: what cannot be read becomes `Undecodable`, so that one bad message stops only
the tenant it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson
from pydantic import ValidationError

from events.facts import FACTS, Commit, Fact, Undecodable

# Takes the stored fields of version n and returns those of version n + 1.
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

ENVELOPE_VERSION = 1

# (type, version n) → how to get to version n + 1. Entries are added and never removed.
UPCASTERS: Mapping[tuple[str, int], Upcaster] = {}


class Codec:
    """Knows a set of fact classes and the upcasters between their versions."""

    def __init__(
        self, facts: Iterable[type[Fact]], upcasters: Mapping[tuple[str, int], Upcaster]
    ) -> None:
        self._facts = {fact.TYPE: fact for fact in facts}
        self._upcasters = dict(upcasters)
        for fact in self._facts.values():
            for version in range(1, fact.VERSION):
                assert (fact.TYPE, version) in self._upcasters, f"{fact.TYPE} v{version} is lost"

    def encode(self, commit: Commit) -> bytes:
        """The bytes to store."""
        events = [
            {"type": fact.TYPE, "v": fact.VERSION, "data": fact.model_dump(mode="json")}
            for fact in commit.events
        ]
        return orjson.dumps(
            {
                "v": commit.version,
                "id": commit.id,
                "actor": commit.actor,
                "time": commit.time,
                "events": events,
            }
        )

    def decode(self, data: bytes) -> Commit:
        """The commit in `data`; unreadable parts are `Undecodable` facts. Raises nothing."""
        try:
            raw = orjson.loads(data)
            version = raw["v"]
            for name in ("id", "actor", "time"):
                if not isinstance(raw[name], str):
                    return _unreadable(f"not a commit: {name} is no text")
            if version != ENVELOPE_VERSION:
                return _unreadable(f"commit version {version} is not known here", raw["id"])
            events = tuple([self._fact(event) for event in raw["events"]])
            return Commit(raw["id"], raw["actor"], raw["time"], events, version)
        except (ValueError, TypeError, KeyError) as error:
            return _unreadable(f"not a commit: {type(error).__name__}")

    def _fact(self, raw: dict[str, Any]) -> Fact:
        name, version, data = raw["type"], raw["v"], raw["data"]
        fact = self._facts.get(name)
        if fact is None:
            return Undecodable(reason=f"{name} is not known here; a newer version wrote it")
        if not 1 <= version <= fact.VERSION:
            return Undecodable(
                reason=f"{name} version {version} is not known here (up to {fact.VERSION})"
            )
        try:
            for step in range(version, fact.VERSION):
                data = self._upcasters[name, step](data)
            return fact.model_validate(data)
        except (ValidationError, ValueError, TypeError, KeyError) as error:
            # Only names and places: the values may be somebody's data.
            return Undecodable(reason=f"{name} version {version} is malformed: {_places(error)}")


def _places(error: Exception) -> str:
    if isinstance(error, ValidationError):
        found = error.errors(include_input=False, include_url=False, include_context=False)
        return "; ".join(".".join(map(str, each["loc"])) + " " + each["type"] for each in found)
    return type(error).__name__


def _unreadable(reason: str, command_id: object = "") -> Commit:
    known = command_id if isinstance(command_id, str) else ""
    return Commit(known, "", "", (Undecodable(reason=reason),))


_CODEC = Codec(FACTS, UPCASTERS)
encode = _CODEC.encode
decode = _CODEC.decode
