"""Sentences for the errors that other parts raise: what happened and what to do."""

from __future__ import annotations

from admin.engines.process import EngineError
from events.commands import CommandRefused
from events.secrets import SecretError
from events.stream import Conflict, LogError, LogUnavailable
from wire.errors import TenantryError


def explain(error: Exception) -> str:
    """`error` for people. What nobody foresaw asks for --debug."""
    text = str(error).rstrip(".")
    if isinstance(error, CommandRefused):
        lines = "\n".join(f"  {mistake}" for mistake in error.mistakes)
        return f"Refused, and nothing was changed:\n{lines}"
    if isinstance(error, LogUnavailable):
        return _unavailable(text.rstrip("?."), error)
    if isinstance(error, Conflict):
        return f"Others are changing the same thing; try again: {text}."
    if isinstance(error, TenantryError):
        return f"{text}. {error.hint}".rstrip()
    if isinstance(error, EngineError | SecretError | LogError):
        return f"{text[:1].upper()}{text[1:]}."
    if isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename else ""
        return f"{what}{error.strerror or error}."
    return f"Unexpected {type(error).__name__}: {text}. Run it again with --debug to see where."


def _unavailable(text: str, error: LogUnavailable) -> str:
    if error.unknown:
        return (
            f"It is not known whether this was stored: {text}. "
            "Look (`tenantry events list`), or send it again with the same --command-id."
        )
    if "nobody takes commands" in text:
        return (
            "No Tenantry of this installation runs, so nothing was changed: "
            "start `tenantry serve`, or store the command with --later."
        )
    what = f"The configuration log does not answer: {text}. Nothing was changed."
    if "authorization" in text.lower():
        return (
            f"{what} NATS refuses the login: correct the user and password in [events] servers, "
            "or credentials_path or nkey_path."
        )
    return f"{what} See that NATS runs and can be reached ([events] servers), then try again."
