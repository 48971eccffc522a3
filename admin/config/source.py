"""From bytes on disk to a plain dict: TOML, line numbers of keys, and `${VAR}` substitution."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from admin.config.mistakes import Key, Mistake, dotted

# A file of 100,000 tenants is about 40 MB; what is larger is not a configuration file.
MAX_FILE_BYTES: Final = 64 * 1024 * 1024

_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{")
_POSITION = re.compile(r"^(.*) \(at line (\d+), column (\d+)\)$")
_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*[A-Za-z0-9_-]+)*)\s*=(.*)$"""
)
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")

# Values of these keys may come from one variable as a list with commas: "${NATS_SERVERS}".
_LISTS = frozenset(
    {"servers", "methods", "allowed_operations", "blocked_tables", "allowed_addresses"}
)


@dataclass
class Source:
    """A file as read. `substituted` holds, for values that took something from the environment, the
    value and how the file writes it; `unset` the places whose variable has no value; `told` the
    places that a mistake was told of."""

    path: Path
    data: dict[str, Any] = field(default_factory=dict, repr=False)
    lines: dict[Key, int] = field(default_factory=dict, repr=False)
    substituted: dict[Key, tuple[str, str]] = field(default_factory=dict, repr=False)
    unset: set[Key] = field(default_factory=set)
    told: set[Key] = field(default_factory=set)
    readable: bool = False
    mistakes: list[Mistake] = field(default_factory=list)
    warnings: list[Mistake] = field(default_factory=list)

    def line(self, key: Key) -> int:
        """Line of the key, or of the nearest table around it; 0 when there is none."""
        while key:
            if key in self.lines:
                return self.lines[key]
            key = key[:-1]
        return 0

    def mistake(self, key: Key, message: str, remedy: str = "") -> None:
        value, written = self.substituted.get(key, ("", ""))
        if value:  # it may be secret, and an operator looks for what the file says
            message = message.replace(value, written)
        self.told.add(key)
        self.mistakes.append(Mistake(dotted(key), self.line(key), message, remedy))


def read(path: Path, env: Mapping[str, str]) -> Source:
    """The file's tables with variables filled in. Never raises: what is wrong is in `.mistakes`."""
    source = Source(path)
    text = _text(source)
    if text is None:
        return source
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        source.mistakes.append(_syntax(str(error), text))
        return source
    source.readable = True
    source.lines = line_numbers(text)
    source.data = _filled(data, (), env, source)
    return source


def _text(source: Source) -> str | None:
    path = source.path
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            limit = f"{MAX_FILE_BYTES // 1024**2} MB"
            source.mistakes.append(
                Mistake("", 0, f"the file is larger than {limit}", "Name the configuration file.")
            )
            return None
        return path.read_text(encoding="utf-8-sig")  # some editors write a mark
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        source.mistakes.append(Mistake("", line, "not UTF-8 text", "Save the file as UTF-8."))
    except OSError as error:
        reason = error.strerror or "unreadable"
        source.mistakes.append(
            Mistake("", 0, f"cannot be read: {reason}", "Name an existing TOML file.")
        )
    return None


def _syntax(message: str, text: str) -> Mistake:
    """tomllib tells the place only in its words: `… (at line 3, column 5)`."""
    found = _POSITION.match(message)
    if found is None:
        last = text.count("\n") + 1
        return Mistake("", last, f"not TOML: {message}", "Complete the last entry.")
    what, line, column = found.groups()
    quoted = "Texts stand in double quotes."
    remedy = quoted if what == "Invalid value" else "Correct this line."
    return Mistake("", int(line), f"column {column}: not TOML: {what}", remedy)


def _filled(value: Any, key: Key, env: Mapping[str, str], source: Source) -> Any:
    """The value with variables replaced, at any depth. Done after parsing, so that no variable
    can bring keys, quotes or tables into the file."""
    if isinstance(value, dict):
        return {name: _filled(item, (*key, name), env, source) for name, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, (*key, at), env, source) for at, item in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value
    text = _expanded(value, key, env, source)
    source.substituted[key] = (text, value)
    if key[-1] in _LISTS:
        return [item.strip() for item in text.split(",") if item.strip()]
    return text


def _expanded(raw: str, key: Key, env: Mapping[str, str], source: Source) -> str:
    text = ""
    at = 0
    for found in _VARIABLE.finditer(raw):
        text += raw[at : found.start()]
        at = found.end()
        name, default = found.groups()
        if name is None:
            if found[0] == "${":
                source.mistake(key, '"${" starts no variable', 'Write "$${" for the characters.')
            text += "${"
            continue
        value = env.get(name)
        if not value and default is not None:
            value = default
        elif value is None:
            source.unset.add(key)
            source.mistake(
                key,
                f"the environment variable {name} is not set",
                f'Set it, or give a default: "${{{name}:-…}}".',
            )
        elif any("\ud800" <= char <= "\udfff" for char in value):
            source.unset.add(key)
            source.mistake(key, f"the environment variable {name} is not UTF-8 text", "Correct it.")
            continue
        text += value or ""
    return text + raw[at:]


def line_numbers(text: str) -> dict[Key, int]:
    """Key → line, by a light scan of a text that tomllib accepted. Keys inside of inline tables
    and arrays are not listed: their line is that of the key before them."""
    lines: dict[Key, int] = {}
    counts: dict[Key, int] = {}
    table: Key = ()
    closing = ""  # the quotes that end a multi-line text we are in
    for number, line in enumerate(text.split("\n"), 1):
        if closing:
            if closing in line:
                closing = ""
            continue
        header = _HEADER.match(line)
        if header is not None:
            table = _table_key(_parts(header[2]), header[1] == "[[", counts)
            lines.setdefault(table, number)
            continue
        entry = _KEY.match(line)
        if entry is None:
            continue
        key = table
        for part in _parts(entry[1]):
            key = (*key, part)
            lines.setdefault(key, number)
        for quotes in ('"""', "'''"):
            if entry[2].count(quotes) % 2:
                closing = quotes
    return lines


def _parts(name: str) -> list[str]:
    return [part.strip("\"'") for part in _PART.findall(name)]


def _table_key(parts: list[str], is_array: bool, counts: dict[Key, int]) -> Key:
    """The place a header opens: `[a.b]` means the last `b` when `[[a.b]]` was seen before."""
    key: Key = ()
    for part in parts[:-1]:
        key = (*key, part)
        if key in counts:
            key = (*key, counts[key])
    key = (*key, parts[-1])
    if not is_array:
        return key
    counts[key] = counts.get(key, -1) + 1
    return (*key, counts[key])
