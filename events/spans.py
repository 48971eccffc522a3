"""What happens now, and as part of which trace: for log lines and the audit, and for whoever makes
spans of it.

A trace goes on from the message of a command to the commit that is appended, and with that message
to every process that folds it: its headers carry `traceparent` (W3C Trace Context). This module
hands that on without telemetry as well; spans are made by a subclass (admin/telemetry/tracing.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, NamedTuple

TRACEPARENT: Final = "traceparent"


class About(NamedTuple):
    """What a piece of work is about: a tenant, a trace and a span; "" for none."""

    tenant: str = ""
    trace_id: str = ""
    span_id: str = ""


ABOUT: Final[ContextVar[About]] = ContextVar("tenantry_about")
"""Told by log lines (admin.telemetry.logs)."""


def about() -> About:
    return ABOUT.get(About())


def parse(traceparent: str) -> tuple[str, str, bool]:
    """Trace id, span id, whether it is sampled; empty for what is none.

    version "-" trace-id "-" parent-id "-" flags, in lower-case hexadecimal.
    https://www.w3.org/TR/trace-context/#traceparent-header-field-values
    """
    parts = traceparent.split("-")
    if len(parts) < 4 or [len(part) for part in parts[:4]] != [2, 32, 16, 2]:
        return "", "", False
    if not all(_is_hex(part) for part in parts[:4]) or parts[0] == "ff":
        return "", "", False
    if parts[0] == "00" and len(parts) != 4:
        return "", "", False
    if not parts[1].strip("0") or not parts[2].strip("0"):
        return "", "", False
    return parts[1], parts[2], bool(int(parts[3], 16) & 1)


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdef" for character in text)


class Spans:
    """Follows what happens to commands and commits. This one makes no spans."""

    @contextmanager
    def command(self, name: str, tenant: str, surface: str, traceparent: str) -> Iterator[str]:
        """A command is carried out; gives the traceparent for what follows from it."""
        with meanwhile(About(tenant, *parse(traceparent)[:2])):
            yield traceparent if parse(traceparent)[0] else ""

    @contextmanager
    def append(self, subject: str, headers: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
        """A commit is stored; gives the headers that it is stored with."""
        yield headers

    @contextmanager
    def apply(self, kind: str, id: str, sequence: int, traceparent: str) -> Iterator[None]:
        """A stored commit is folded here; `about()` is its trace meanwhile."""
        with meanwhile(About(id if kind == "tenant" else "", *parse(traceparent)[:2])):
            yield


@contextmanager
def meanwhile(what: About) -> Iterator[None]:
    token = ABOUT.set(what)
    try:
        yield
    finally:
        ABOUT.reset(token)


NO_SPANS: Final = Spans()
