"""The attacks of tests/isolation/attacks.toml, as SQL for one house (support.attack_house).

An attack names what it aims at by places between percent signs:

    %orders%, %customers%, …   the victim's table, as the strategy has it
    %other%, %me%              the victim's and the attacker's value, as literals
    %schema%, %role%, %database%, %pid%, %lo%, %token%, %key%     what belongs to the victim
    %xff%, %9*ab%                 a byte; a text so many times
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).resolve().parent.parent / "isolation" / "attacks.toml"
# What an attack would gain: see the head of the file.
GAINS: Final = frozenset(["rows", "change", "tells", "disturbs", "becomes", "code"])
_PLACE: Final = re.compile(r"%(?:x([0-9a-f]{2})|([a-z]{2,})|(\d+)\*([^%]+))%")
_KEYS: Final = frozenset(
    [
        "name",
        "idea",
        "sql",
        "gain",
        "residual",
        "data",
        "values",
        "call",
        "noisy",
        "only",
        "excused",
    ]
)


@dataclass(frozen=True)
class Attack:
    """One attack. `sql` holds its statements in order; `call` is a FunctionCall instead."""

    family: str
    name: str
    idea: str
    gain: str
    sql: tuple[str, ...] = ()
    values: tuple[str, ...] = ()  # parameters of every statement
    data: str = "1\n"  # what COPY FROM STDIN is given
    call: str = ""  # a function's signature
    residual: str = ""  # what is known to be told, and by which line of docs/security.md
    excused: tuple[str, ...] = ()  # strategies in which that is so; empty: all
    noisy: bool = False  # its answer is never the same twice
    only: tuple[str, ...] = ()  # strategies; empty: all

    def texts(self, places: dict[str, str]) -> tuple[str, ...]:
        return tuple(filled(each, places) for each in self.sql)


@dataclass
class Corpus:
    attacks: list[Attack] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)


def filled(text: str, places: dict[str, str]) -> str:
    def put(found: re.Match[str]) -> str:
        if found[1]:
            return bytes([int(found[1], 16)]).decode("ascii", "surrogateescape")
        return found[4] * int(found[3]) if found[3] else places.get(found[2], found[0])

    return _PLACE.sub(put, text)


def load() -> Corpus:
    """All attacks in their order, and what is wrong with the file."""
    corpus = Corpus()
    seen: set[str] = set()
    for family, entries in tomllib.loads(FILE.read_text()).items():
        for entry in entries:
            name = entry.get("name", "?")
            if unknown := entry.keys() - _KEYS:
                corpus.mistakes.append(f"{name}: unknown keys {sorted(unknown)}")
            if name in seen:
                corpus.mistakes.append(f"{name}: twice")
            if entry.get("gain") not in GAINS or not entry.get("idea"):
                corpus.mistakes.append(f"{name}: no idea or no gain")
            if "sql" not in entry and "call" not in entry:
                corpus.mistakes.append(f"{name}: no statement")
            seen.add(name)
            corpus.attacks.append(_attack(family, entry))
    return corpus


def _attack(family: str, entry: dict[str, Any]) -> Attack:
    sql = entry.get("sql", ())
    return Attack(
        family=family,
        name=entry["name"],
        idea=entry["idea"],
        gain=entry["gain"],
        sql=(sql,) if isinstance(sql, str) else tuple(sql),
        values=tuple(entry.get("values", ())),
        data=entry.get("data", "1\n"),
        call=entry.get("call", ""),
        residual=entry.get("residual", ""),
        excused=tuple(entry.get("excused", ())),
        noisy=entry.get("noisy", False),
        only=tuple(entry.get("only", ())),
    )
