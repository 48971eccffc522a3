"""What stands before every route: Host, origin, odd headers, rates; and after it: safe headers.

- DNS rebinding: a page in an operator's browser may reach a loopback address under a name of its
  own. Only our own names are served (Host), and only pages of ours (Origin).
- Smuggling: a request that says two things about its length or about who asks is refused; the
  parser (h11) has refused doubled lengths and blanks in names before. It takes bare line feeds as
  ends of lines (RFC 9112, 2.2), so what stands before us should not hand on any.
- Tokens in addresses end up in logs and histories: they are refused outright.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from admin.api.limits import (
    HEADER_BYTES_MAX,
    HEADERS_MAX,
    PATH_BYTES_MAX,
    QUERY_BYTES_MAX,
    SEND_SECONDS,
    Buckets,
    Rates,
)
from admin.api.problems import Problem
from events.commands_model import Mistake

log = logging.getLogger("tenantry.api")

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
# Headers that may come once: two of them are two opinions.
_ONCE: Final = frozenset(
    {
        b"host", b"authorization", b"content-length", b"content-type", b"transfer-encoding",
        b"idempotency-key", b"tenantry-command-id", b"tenantry-token", b"if-match",
        b"if-none-match", b"last-event-id", b"traceparent", b"origin",
    }
)  # fmt: skip
_TOKEN_PARAMETERS: Final = frozenset({"token", "access_token", "authorization", "api_key"})
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?", re.IGNORECASE)

_ALWAYS: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_POLICY: Final = b"default-src 'none'; frame-ancestors 'none'"


class Gate:
    """ASGI middleware, the outermost one. `names` are the host names that are served besides
    addresses; `refused` hears of what was turned away: address, reason."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        names: Iterable[str],
        rates: Rates,
        refused: Callable[[str, str], None],
        loopback: bool,
    ) -> None:
        self._app = app
        self._names = frozenset(name.lower() for name in names) | LOOPBACK_NAMES
        self._loopback = loopback
        self._addresses = Buckets(rates.address)
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = ended = False

        async def answer(message: Message) -> None:
            nonlocal started, ended
            ended = message["type"] == "http.response.body" and not message.get("more_body")
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = _with_safe(scope, message.get("headers", []))
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await send(message)
            except TimeoutError:
                # It takes nothing: what waits for it is worth no memory.
                if (abort := scope.get("state", {}).get("abort")) is not None:
                    abort()
                raise

        try:
            self._check(scope)
            await self._app(scope, receive, answer)
        except Problem as problem:
            await problem.response(scope["path"])(scope, receive, answer)
        except TimeoutError:
            log.info("a client took nothing for %g s and was left", SEND_SECONDS)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if ended:
                return
            if started:
                raise  # half an answer is no answer: the connection is closed
            await Problem("failed").response(scope["path"])(scope, receive, answer)

    def _check(self, scope: Scope) -> None:
        """Raises Problem."""
        client = address_of(scope)
        wait = self._addresses.take(client)
        if wait:
            self._refused(client, "too many requests of one address")
            raise Problem("busy", retry_after=wait)
        if len(scope["raw_path"]) > PATH_BYTES_MAX or len(scope["query_string"]) > QUERY_BYTES_MAX:
            raise Problem("too_large", "the address is too long", status=414)
        raw = scope["raw_path"].lower()
        # What one part of us takes for a name, another one must not take for a path.
        if not scope["path"].isprintable() or b"%2f" in raw or b"%5c" in raw:
            raise Problem("malformed", "the path holds what no path here has")
        self._check_headers(scope)
        for name, _ in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True):
            if name.lower() in _TOKEN_PARAMETERS:
                self._refused(client, "a token in the address")
                wrong = Mistake(name, "tokens do not belong into an address", "Revoke this one.")
                raise Problem("malformed", "send Authorization: Bearer TOKEN", mistakes=[wrong])

    def _check_headers(self, scope: Scope) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        size = sum(len(name) + len(value) for name, value in headers)
        if len(headers) > HEADERS_MAX or size > HEADER_BYTES_MAX:
            raise Problem("too_large", "the headers are too many, or too long", status=431)
        names = [name for name, _ in headers]
        for name in _ONCE:
            if names.count(name) > 1:
                raise Problem("malformed", f"the header {name.decode()} comes twice")
        if b"transfer-encoding" in names and b"content-length" in names:
            raise Problem("malformed", "two opinions about the length of the body")
        found = dict(headers)
        host = found.get(b"host", b"").decode("latin-1")
        if not self._serves(host):
            self._refused(address_of(scope), "another host was asked for")
            raise Problem("misdirected", "name this host in [admin] hosts if it is right")
        origin = found.get(b"origin", b"").decode("latin-1")
        if origin and not _same(origin, host):
            self._refused(address_of(scope), "a page of another origin")
            raise Problem("forbidden", "pages of other origins are not served")

    def _serves(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].strip("[]").lower().rstrip(".")
        if name in self._names:
            return True
        # No name server can say what an address is; on loopback there are only ours.
        return not self._loopback and _is_address(name)


def _same(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _with_safe(scope: Scope, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    kept = [(name.lower(), value) for name, value in headers]
    names = {name for name, _ in kept}
    kept += [each for each in _ALWAYS if each[0] not in names]
    if b"content-security-policy" not in names:
        kept.append((b"content-security-policy", _POLICY))
    return kept


def address_of(scope: Any) -> str:
    """Where a request comes from; never what a header says."""
    client = scope.get("client") if not isinstance(scope, Request) else scope.scope.get("client")
    return str(client[0]) if client else ""
