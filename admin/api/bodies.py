"""Request bodies: JSON objects, bounded in size, depth and time."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson
from starlette.requests import ClientDisconnect, Request

from admin.api.limits import BODY_BYTES_MAX, BODY_SECONDS, DEPTH_MAX, DISCARDED_MAX
from admin.api.problems import Problem
from events.commands_model import Mistake

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
# What `curl -d` says of JSON when nobody tells it better: the documented requests come so. A page
# in a browser can send it as well, but it has no token to send along (see admin.api.gate on
# origins for where none is needed).
FORM: Final = "application/x-www-form-urlencoded"
MEDIA_TYPES: Final = (JSON, MERGE_PATCH, FORM)


async def read_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object; {} when it is empty. Raises Problem."""
    body = await _read(request)
    if not body.strip():
        return {}
    kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if kind not in MEDIA_TYPES:
        raise Problem("media_type", f"send {JSON}", headers={"Accept": ", ".join(MEDIA_TYPES)})
    try:
        found = orjson.loads(body)
    except ValueError as error:
        # Where, not what: the text may hold a password.
        where = f" (at byte {error.pos})" if isinstance(error, orjson.JSONDecodeError) else ""
        raise Problem("malformed", f"the body is not JSON{where}") from None
    if not isinstance(found, dict):
        raise Problem("malformed", "the body is not a JSON object")
    _check_depth(found)
    return found


def only(body: dict[str, Any], *names: str) -> dict[str, Any]:
    """The body, when it holds nothing else: what else a command has is not the body's to say."""
    strange = [Mistake(key[:64], "is not known") for key in sorted(set(body) - set(names))]
    if strange:
        raise Problem("refused", "; ".join(map(str, strange)), mistakes=strange)
    return body


async def _read(request: Request) -> bytes:
    body = bytearray()
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= BODY_BYTES_MAX:
                    body += chunk
                elif size > DISCARDED_MAX:
                    break
    except TimeoutError:
        raise Problem("timeout", headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise Problem("malformed", "the client went away") from None
    if size > BODY_BYTES_MAX:
        raise _too_large()
    return bytes(body)


def _too_large() -> Problem:
    return Problem(
        "too_large", f"a body has {BODY_BYTES_MAX} bytes at most", headers={"Connection": "close"}
    )


def _check_depth(found: dict[str, Any]) -> None:
    level: list[Any] = [found]
    for _ in range(DEPTH_MAX):
        below: list[Any] = []
        for value in level:
            inside = value.values() if isinstance(value, dict) else value
            below += [each for each in inside if isinstance(each, dict | list)]
        if not below:
            return
        level = below
    raise Problem("malformed", f"the body is nested more than {DEPTH_MAX} levels deep")
