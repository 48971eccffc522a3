"""Who asks, and what they may: bearer tokens, client certificates, roles.

A token is the one of events.tokens; nothing here compares secrets, so there is no time to measure.
A client certificate (only with `[admin] ca_path`) speaks for the operator of the log that its
common name names. A refusal tells nothing but that: the reason is for the audit.

Dependencies are coroutines all: FastAPI runs plain functions in threads, and nothing here may be
touched from another thread than the event loop's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Path, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from admin.api.backend import Backend
from admin.api.gate import address_of
from admin.api.problems import Problem, missing
from admin.command_service import Origin
from events.facts import KIND_OPERATOR
from events.model import TENANT_ID
from events.operators import Principal
from events.tokens import TokenRefused

SURFACE: Final = "http"
NOBODY: Final = "unauthenticated"
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

_SCHEME: Final = HTTPBearer(
    auto_error=False,
    scheme_name="token",
    bearerFormat="JWT",
    description="A token of `tenantry tokens create` or `POST /tokens`. Roles: viewer (reads), "
    "tenant-admin (users and metadata of one tenant), operator (everything).",
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and from where. `token` is checked again by what lasts long."""

    principal: Principal
    origin: Origin
    token: str = ""

    @property
    def name(self) -> str:
        """Tells callers apart, where they are counted."""
        return self.principal.jti or f"{self.principal.name}@{self.principal.address}"


async def backend_of(request: Request) -> Backend:
    found: Backend = request.app.state.backend
    return found


Behind = Annotated[Backend, Depends(backend_of)]


async def caller(
    request: Request,
    backend: Behind,
    given: Annotated[HTTPAuthorizationCredentials | None, Security(_SCHEME)],
) -> Caller:
    """Whoever shows a good token. Raises Problem."""
    address = address_of(request)
    trace = request.headers.get("traceparent", "")
    origin = Origin(SURFACE, trace if _TRACEPARENT.fullmatch(trace) else "")
    found = _certified(request, backend, address) if given is None else None
    if found is None and given is None and backend.insecure:
        found = Principal(NOBODY, "operator", address=address)
    token = "" if given is None else given.credentials
    if found is None:
        found = _checked(backend, token, address)
    wait = backend.tokens.take(found.jti or found.name)
    if wait:
        backend.note_limit(address, "too many requests of one token", found.name)
        raise Problem("busy", retry_after=wait)
    made = Caller(found, origin, token)
    request.state.caller = made
    return made


def _checked(backend: Backend, token: str, address: str) -> Principal:
    """Tokens cannot be guessed, so nobody is locked out for what others of an address try; but who
    only tries is slowed down."""
    try:
        return backend.control.service.checker.check(token, address=address)
    except TokenRefused as refused:
        backend.note_login(address, refused.reason)
        wait = backend.failures.take(address)
        if wait:
            raise Problem("busy", "too many tokens that are not good", retry_after=wait) from None
        raise unauthenticated(str(refused)) from None


def unauthenticated(detail: str) -> Problem:
    return Problem(
        "unauthenticated",
        f"{detail}: send Authorization: Bearer TOKEN (`tenantry tokens create` makes one)",
        headers={"WWW-Authenticate": 'Bearer realm="tenantry"'},
    )


def _certified(request: Request, backend: Backend, address: str) -> Principal | None:
    """The operator that a verified client certificate names, if there is one."""
    name = request.scope.get("state", {}).get("certificate", "")
    if not name:
        return None
    known = backend.state.named(KIND_OPERATOR, name)
    if known is None or known.deleted or known.settings.get("disabled"):
        backend.note_login(address, "the certificate names no operator")
        return None
    return Principal(name, known.settings["role"], address=address)


def still_good(backend: Backend, who: Caller) -> bool:
    """Whether what was shown still counts: it may have expired or been revoked meanwhile."""
    try:
        if who.token:
            backend.control.service.checker.check(who.token)
            return True
        if who.principal.name == NOBODY:
            return backend.insecure
        known = backend.state.named(KIND_OPERATOR, who.principal.name)
        return known is not None and not known.deleted and not known.settings.get("disabled")
    except (TokenRefused, Problem):
        return False


Anybody = Annotated[Caller, Depends(caller)]


async def overseer(request: Request, backend: Behind, who: Anybody) -> Caller:
    """Who may see what concerns all tenants."""
    if not who.principal.may_read(""):
        raise forbidden(backend, who, f"{request.method} {request.scope['route'].path}")
    return who


Overseer = Annotated[Caller, Depends(overseer)]


def forbidden(backend: Backend, who: Caller, what: str, tenant: str = "") -> Problem:
    principal = who.principal
    backend.note_refusal(principal.address, f"not for the role: {what}", principal.name)
    mine = f"; this token is for tenant {principal.tenant} only" if principal.tenant else ""
    return Problem("forbidden", f"the role {principal.role} may not do that{mine}")


async def tenant_id(
    backend: Behind,
    who: Anybody,
    id: Annotated[
        str,
        Path(
            min_length=1,
            max_length=64,
            pattern=r"^~?[a-z0-9][a-z0-9_-]{0,62}$",
            description="A tenant. `~stats` is the tenant with the id `stats`, where `stats` alone "
            "means something else.",
            examples=["acme"],
        ),
    ],
) -> str:
    """The id, checked, of a tenant that the caller may see."""
    id = id.removeprefix("~")
    if TENANT_ID.fullmatch(id) is None:
        raise missing(f"tenant {id}")
    if not who.principal.may_read(id):
        raise forbidden(backend, who, "another tenant")
    return id


TenantOf = Annotated[str, Depends(tenant_id)]
