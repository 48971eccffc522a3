"""Mistakes as answers: problem details (RFC 9457), always with all that is wrong.

    {"type": "urn:tenantry:problem:refused", "title": …, "status": 422, "detail": …,
     "instance": "/tenants", "code": "refused",
     "errors": [{"path": "rate_limits.qps_limit", "message": …, "hint": …}]}

`code` is that of events.answer, or one of TITLES. No value that was sent is in it, and no trace of
our own code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from starlette.responses import Response

from events.answer import STATUS, Answer
from events.commands_model import Mistake

MEDIA_TYPE: Final = "application/problem+json"
# Whoever is told to come back, and not when, comes back after this.
RETRY_SECONDS: Final = 1

# Code → title. The status of those that commands know is in events.answer.
TITLES: Final = {
    "malformed": "The request cannot be read",
    "unauthenticated": "A valid token is needed",
    "forbidden": "This is not allowed",
    "missing": "There is no such thing",
    "exists": "It exists already",
    "changed": "It has changed meanwhile",
    "too_large": "The request is too large",
    "refused": "The request is refused",
    "conflict": "Others were faster",
    "reused": "The command id belongs to another command",
    "busy": "Too many requests",
    "failed": "It failed here",
    "unavailable": "Not available now",
    "unknown": "What came of it is not known",
    "method": "This method is not for that",
    "media_type": "This kind of content is not understood",
    "timeout": "The request took too long",
    "misdirected": "This host is not served here",
}
_STATUS: Final = {
    **STATUS,
    "method": 405,
    "timeout": 408,
    "media_type": 415,
    "misdirected": 421,
}
_RETRIED: Final = frozenset({429, 503})


class Problem(Exception):
    """Ends a request. `mistakes` are shown as `errors`; `retry_after` is in seconds."""

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        mistakes: Sequence[Mistake] = (),
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        command_id: str = "",
    ) -> None:
        super().__init__(detail or TITLES[code])
        self.code = code
        self.detail = detail
        self.mistakes = tuple(mistakes)
        self.status = _STATUS[code] if status is None else status
        self.headers = dict(headers or {})
        self.command_id = command_id
        if retry_after is None and self.status in _RETRIED:
            retry_after = RETRY_SECONDS
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))

    @classmethod
    def of(cls, answer: Answer) -> Problem:
        """Of a command that was not accepted."""
        detail = "; ".join(map(str, answer.mistakes))
        # Where a command is about another thing than the one that is missing (a tier that a tenant
        # names), the words say so; the code alone decides the status.
        return cls(answer.code, detail, mistakes=answer.mistakes, command_id=answer.command_id)

    def body(self, instance: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            "type": f"urn:tenantry:problem:{self.code}",
            "title": TITLES[self.code],
            "status": self.status,
            "detail": self.detail or TITLES[self.code],
            "instance": instance,
            "code": self.code,
            "errors": [
                {"path": each.path, "message": each.message, "hint": each.hint}
                for each in self.mistakes
            ],
        }
        if self.command_id:
            found["command_id"] = self.command_id
        return found

    def response(self, instance: str) -> Response:
        return Response(
            orjson.dumps(self.body(instance)), self.status, self.headers, media_type=MEDIA_TYPE
        )


def mistake(path: str, message: str, hint: str = "") -> Problem:
    """One thing in a parameter or a body is wrong."""
    wrong = Mistake(path, message, hint)
    return Problem("refused", str(wrong), mistakes=[wrong])


def missing(what: str, hint: str = "") -> Problem:
    """`what` is "tenant acme", say."""
    wrong = Mistake("", f"there is no {what}", hint)
    return Problem("missing", str(wrong), mistakes=[wrong])
