"""The settings that servers report (ParameterStatus), and those a tenant's server may not have.

https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-ASYNC
"""

from __future__ import annotations

from typing import Final

from wire.errors import NotSupported, ProtocolViolation

# Encodings in which a byte of a character may look like a quote or backslash: what the guard reads
# and what the server executes could differ, so such sessions are ended.
UNSAFE_ENCODINGS: Final = frozenset(
    ("BIG5", "GB18030", "GBK", "JOHAB", "SHIFT_JIS_2004", "SJIS", "UHC")
)
# Distinct sets of reported settings kept as one object each; the servers of a pool report alike.
MAX_SHARED_PARAMETERS: Final = 1_000
# Settings one server may report (PostgreSQL 18: 15), and bytes of a set that is worth sharing.
MAX_PARAMETERS: Final = 100
MAX_SHARED_BYTES: Final = 4_096

_shared_parameters: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}


def share(parameters: dict[str, str]) -> dict[str, str]:
    """One object for equal sets of reported settings, so that equality is seen at a glance."""
    key = tuple(sorted(parameters.items()))
    if sum([len(name) + len(value) for name, value in key]) > MAX_SHARED_BYTES:
        return parameters
    if len(_shared_parameters) >= MAX_SHARED_PARAMETERS:
        _shared_parameters.clear()
    return _shared_parameters.setdefault(key, parameters)


def accept(known: dict[str, str], name: str, value: str, *, escapes: bool) -> dict[str, str]:
    """What is known with one more report. Raises what ends the connection.

    escapes: a client has turned standard_conforming_strings off in sight of the guard, which
    looks at its literals since then; when a function did it, nobody does.
    """
    parameters = dict(known)
    parameters[name] = value
    if len(parameters) > MAX_PARAMETERS:
        raise ProtocolViolation("server reports too many settings")
    if name == "standard_conforming_strings" and value != "on" and not escapes:
        raise NotSupported("standard_conforming_strings must stay on", hint="Use E'' strings.")
    if name == "client_encoding" and value in UNSAFE_ENCODINGS:
        raise NotSupported(
            f"client_encoding {value} is not supported",
            hint="Use UTF8 and convert in the client.",
        )
    return share(parameters)
