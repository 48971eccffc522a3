"""One job: read which tenant a new connection names. Naming proves nothing; authentication does.

    username_prefix   acme.appuser    → tenant acme, user appuser
    database_name     acme_db         → tenant acme
    startup_option    tenantry.tenant → its value

Methods are tried in their order and the first that names a tenant decides, even if a later one
names another: the user must then be one of that tenant's users, so a wrong name only fails.
Whether the tenant exists is not known here. This module is compiled; it holds no state.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from events.installation import Identification
from events.model import TENANT_ID
from wire.errors import ProtocolViolation

# As isspace() in the C locale, which is how PostgreSQL cuts `options`.
_SPACE: Final = " \t\n\v\f\r"


class Identity(NamedTuple):
    """Who the connection says it is. `user` has the tenant's prefix taken off."""

    tenant: str
    user: str
    method: str


class Identifier:
    """The configured methods. Raises ValueError when `fallback` is not a tenant id."""

    def __init__(self, settings: Identification) -> None:
        self._methods: tuple[str, ...] = tuple(settings.methods)
        self._separator: str = settings.separator
        self._suffix: str = settings.database_suffix
        self._option: str = settings.option
        self._fallback: str | None = settings.fallback
        self._prefixed: bool = "username_prefix" in settings.methods
        if self._fallback is not None and not _valid(self._fallback):
            raise ValueError(f'the fallback "{self._fallback}" is not a tenant id')

    def identify(self, user: str, database: str, options: dict[str, str]) -> Identity | None:
        """The tenant that the connection names, None for none.

        `options` holds the startup packet's parameters and those of its `options` string.
        Names are taken as they are: `Acme` is no tenant id and is not made into one.
        """
        for method in self._methods:
            if method == "username_prefix":
                tenant, found, rest = user.partition(self._separator)
                if found and rest and _valid(tenant):
                    return Identity(tenant, rest, method)
            elif method == "database_name":
                if database.endswith(self._suffix):
                    tenant = database[: len(database) - len(self._suffix)]
                    if _valid(tenant):
                        return Identity(tenant, self._bare(user, tenant), method)
            elif method == "startup_option":
                tenant = options.get(self._option, "")
                if _valid(tenant):
                    return Identity(tenant, self._bare(user, tenant), method)
        if self._fallback is not None:
            return Identity(self._fallback, self._bare(user, self._fallback), "fallback")
        return None

    def _bare(self, user: str, tenant: str) -> str:
        """The user name without a prefix that says the same as the method that decided."""
        if self._prefixed:
            prefix, found, rest = user.partition(self._separator)
            if found and rest and prefix == tenant:
                return rest
        return user


def _valid(tenant: str) -> bool:
    return TENANT_ID.fullmatch(tenant) is not None


def parse_options(text: str) -> dict[str, str]:
    """Settings in a startup packet's `options`; the last of a name wins.

    Raises ProtocolViolation.
    As PostgreSQL's pg_split_opts cuts and its command line reads them: `-c name=value`,
    `-cname=value`, `--name=value`; a backslash takes the next character as it is; a dash in a
    name means an underscore. Other switches are refused rather than ignored.
    """
    settings: dict[str, str] = {}
    words = _split(text)
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "-c":
            if at == len(words):
                raise ProtocolViolation("-c in options needs name=value")
            assignment = words[at]
            at += 1
        elif word.startswith("-c") or (word.startswith("--") and len(word) > 2):
            assignment = word[2:]
        else:
            raise ProtocolViolation(
                f'unsupported switch in options: "{word}"',
                hint="Only -c name=value and --name=value are supported.",
            )
        name, found, value = assignment.partition("=")
        if not found or not name:
            raise ProtocolViolation(f'options: "{assignment}" is not name=value')
        settings[name.replace("-", "_")] = value
    return settings


def _split(text: str) -> list[str]:
    """Words between white space, backslashes resolved; one at the very end is dropped."""
    words: list[str] = []
    word: list[str] = []
    inside = False
    escaped = False
    for char in text:
        if escaped:
            word.append(char)
            escaped = False
        elif char == "\\":
            escaped = inside = True
        elif char in _SPACE:
            if inside:
                words.append("".join(word))
                word = []
                inside = False
        else:
            word.append(char)
            inside = True
    if inside:
        words.append("".join(word))
    return words
