"""The words of the SQL console: what a text asks for. PgBouncer's vocabulary, and a few more.

    SHOW thing [tenant] [number]         PAUSE, RESUME, KILL, RECONNECT, WAIT_CLOSE [tenant]
    DISABLE tenant, ENABLE tenant        KILL_CLIENT id        RELOAD        SHUTDOWN …

Beside them what drivers say by themselves: BEGIN, COMMIT, SET application_name, SELECT 1 …
https://www.pgbouncer.org/usage.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from wire import errors as e

# Statements in one text; people type one, drivers send four at most.
STATEMENTS_MAX: Final = 20
# Console commands are short; what is longer is not one.
TEXT_MAX: Final = 4096

_TOKEN: Final = re.compile(
    r"""\s+|--[^\n]*|/\*.*?\*/|(?P<word>"(?:[^"]|"")*"|'(?:[^']|'')*'|[^\s;'"(),=]+|[(),=])"""
    r"|(?P<end>;)",
    re.DOTALL,
)

# What may be done to one tenant or, without a name, to all.
ACTS_ON_TENANTS: Final = ("pause", "resume", "kill", "reconnect", "wait_close")
ACTS: Final = (
    *ACTS_ON_TENANTS,
    "disable",
    "enable",
    "kill_client",
    "reload",
    "suspend",
    "shutdown",
)

# Settings that drivers set and ask for without looking at whom they talk to.
FAKE_SETTINGS: Final = {
    "client_encoding": "UTF8",
    "default_transaction_isolation": "read committed",
    "transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
    "datestyle": "ISO, MDY",
    "timezone": "GMT",
    "extra_float_digits": "1",
    "application_name": "",
    "statement_timeout": "0",
    "search_path": "",
    "client_min_messages": "notice",
    "bytea_output": "hex",
    "intervalstyle": "postgres",
}

# What changes nothing here, by its first words; the command tag is what PostgreSQL answers.
_NOTHING: Final = {
    "begin": "BEGIN",
    "start": "START TRANSACTION",
    "commit": "COMMIT",
    "end": "COMMIT",
    "rollback": "ROLLBACK",
    "abort": "ROLLBACK",
    "discard": "DISCARD ALL",
    "deallocate": "DEALLOCATE ALL",
    "close": "CLOSE CURSOR ALL",
    "unlisten": "UNLISTEN",
    "reset": "RESET",
    "savepoint": "SAVEPOINT",
    "release": "RELEASE",
}


@dataclass(frozen=True, slots=True)
class Statement:
    """`verb` is "show", one of ACTS, "select", or "nothing" with the tag to answer."""

    verb: str
    thing: str = ""
    name: str = ""
    number: int = 0
    tag: str = ""


def statements(text: str) -> list[Statement]:
    """All statements of `text`; empty for one without any. Raises SyntaxRefused, TooLarge."""
    if len(text) > TEXT_MAX:
        raise e.TooLarge("the console takes no texts that long")
    found: list[Statement] = []
    words: list[str] = []
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise unknown(text)
        at = token.end()
        if token["end"]:
            if words:
                found.append(statement(words, text))
            words = []
        elif token["word"]:
            words.append(token["word"])
    if words:
        found.append(statement(words, text))
    if len(found) > STATEMENTS_MAX:
        raise e.SyntaxRefused(f"more than {STATEMENTS_MAX} commands in one text")
    return found


def statement(words: list[str], text: str) -> Statement:
    """What the words of one statement ask for. Raises SyntaxRefused, NotSupported."""
    verb = words[0].lower()
    rest = [plain(word) for word in words[1:]]
    if verb == "show" and rest:
        return _show(rest, text)
    if verb in ACTS_ON_TENANTS and len(rest) <= 1:
        return Statement(verb, name=rest[0] if rest else "")
    if verb in ("disable", "enable", "kill_client") and len(rest) == 1:
        return Statement(verb, name=rest[0])
    if verb in ("reload", "suspend") and not rest:
        return Statement(verb)
    if verb == "shutdown":
        return Statement(verb)
    if verb == "set":
        return _set(rest, text)
    if verb == "select":
        return _select(rest, text)
    if verb in _NOTHING:
        return Statement("nothing", tag=_NOTHING[verb])
    raise unknown(text)


def _show(rest: list[str], text: str) -> Statement:
    thing = "_".join(rest).lower() if "_".join(rest).lower() in FAKE_SETTINGS else rest[0].lower()
    name, number = "", 0
    for word in rest[1:] if thing == rest[0].lower() else []:
        if word.isascii() and word.isdigit() and not number and len(word) < 10:
            number = int(word)
        elif word.lower() == "limit":
            continue
        elif not name:
            name = word
        else:
            raise unknown(text)
    return Statement("show", thing, name, number)


def _set(rest: list[str], text: str) -> Statement:
    if rest and rest[0].lower() in ("session", "local"):
        rest = rest[1:]
    if rest and rest[0].lower() in (*FAKE_SETTINGS, "time", "names", "transaction"):
        return Statement("nothing", tag="SET")
    raise e.NotSupported(
        "settings are not changed in the console",
        hint="Use `tenantry tenants change`, or the configuration file and RELOAD.",
    )


def _select(rest: list[str], text: str) -> Statement:
    said = "".join(rest).lower()
    if said in ("version()", "current_user", "current_database()", "pg_advisory_unlock_all()"):
        return Statement("select", said)
    if said.isascii() and said.isdigit() and len(said) < 10:
        return Statement("select", "number", number=int(said))
    raise unknown(text)


def plain(word: str) -> str:
    """A word without its quotes."""
    if len(word) >= 2 and word[0] in "\"'" and word[-1] == word[0]:
        return word[1:-1].replace(word[0] * 2, word[0])
    return word


def unknown(text: str) -> e.SyntaxRefused:
    shown = " ".join(text.split())
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return e.SyntaxRefused(f"invalid command '{shown}', use SHOW HELP;")
