"""Operators and command tokens: who may do what."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from admin.api import described, examples
from admin.api.access import Behind, Overseer
from admin.api.backend import Backend, page_of
from admin.api.bodies import only, read_object
from admin.api.commands import Order, OrderedForAll, about, caught_up, done, etag, json, told_only
from admin.api.described import answers, listed, table
from admin.api.limits import PAGE
from admin.api.pages import Cursor, Limit, paged
from admin.api.problems import Problem, missing
from admin.api.users import verifier_of
from events.commands_model import (
    OPERATED_MAX,
    DeleteOperator,
    IssueToken,
    Mistake,
    PutOperator,
    RevokeToken,
)
from events.facts import KIND_OPERATOR, KIND_TOKEN
from events.model import parse_duration
from events.tokens import DEFAULT_SECONDS

router = APIRouter(tags=["access"])
Name = Annotated[str, Path(min_length=1, max_length=63, examples=["ann"])]
Jti = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{8,64}$", max_length=64)]

_ROLE: Final = {"enum": ["viewer", "operator"]}
_TENANTS: Final = {
    "type": "array",
    "items": {"type": "string", "pattern": r"^(\*|[a-z0-9][a-z0-9_-]{0,62})$"},
    "maxItems": OPERATED_MAX,
}
_OPERATOR: Final = table(
    name=described.NAME,
    role=_ROLE,
    disabled={"type": "boolean"},
    sql={"type": "boolean"},
    tenants=_TENANTS,
    version=described.COUNT,
)
_TOKEN: Final = table(
    jti=described.NAME,
    name=described.NAME,
    role={"enum": ["viewer", "tenant-admin", "operator"]},
    expires_at=described.COUNT,
)
# What GET says of an operator besides what can be set: sent back, it is no mistake.
_READ_ONLY: Final = ("name", "sql", "version")


# --- operators -----------------------------------------------------------------------------------


@router.get(
    "/operators",
    summary="List operators",
    responses=answers(table(operators=listed(_OPERATOR)), examples.OPERATORS),
    dependencies=[Depends(caught_up)],
)
async def list_operators(
    request: Request, backend: Behind, who: Overseer, limit: Limit = PAGE, cursor: Cursor = ""
) -> Response:
    known = backend.state.named_all(KIND_OPERATOR)
    names, after = page_of(sorted(known), cursor, limit)
    rows = [_operator(backend, name) for name in names]
    return paged(request, {"operators": rows, "total": len(known)}, after, limit)


def _operator(backend: Backend, name: str) -> dict[str, Any]:
    """What is shown of an operator. The verifier of an SQL password is nobody's to see."""
    found = backend.state.named(KIND_OPERATOR, name)
    if found is None or found.deleted:
        raise missing(f"operator {name}")
    return {
        "name": name,
        "role": found.settings["role"],
        "disabled": found.settings["disabled"],
        "sql": bool(found.settings.get("scram")),
        "tenants": list(found.settings.get("tenants", ())),
        "version": found.version,
    }


@router.get(
    "/operators/{name}",
    summary="One operator",
    description="`sql`: whether it has a password for SQL; `tenants`: those it works in there.",
    responses=answers(_OPERATOR, examples.OPERATOR),
    dependencies=[Depends(caught_up)],
)
async def get_operator(backend: Behind, who: Overseer, name: Name) -> Response:
    found = _operator(backend, name)
    return json(found, headers=etag(found["version"]))


@router.put(
    "/operators/{name}",
    status_code=204,
    summary="Give an operator a role, tenants, a password for SQL; or shut one out",
    description="Tokens in that name are good for no more than `role`. With `password`, or `scram` "
    "(a verifier as PostgreSQL stores it), it may also log in over SQL: to the console, and in the "
    'role operator to the data of `tenants` (`["*"]`: of all). Left out, `scram` and `tenants` '
    'stay as they are; `""` and `[]` take them away.',
    openapi_extra=described.body(
        {
            **table(role=_ROLE),
            "properties": {
                "role": _ROLE,
                "disabled": {"type": "boolean"},
                "tenants": _TENANTS,
                "password": {"type": "string", "minLength": 1},
                "scram": {"type": "string"},
            },
        },
        examples=examples.PUT_OPERATOR,
    ),
    responses=described.COMMANDED,
)
async def put_operator(request: Request, order: OrderedForAll, name: Name) -> Response:
    body = await read_object(request)
    if body.pop("name", name) != name:
        order.refuse(PutOperator.TYPE)
        wrong = Mistake("name", f"is not {name}, which the address names")
        raise Problem("refused", str(wrong), mistakes=[wrong])
    for key in _READ_ONLY:
        body.pop(key, None)
    fields = only(body, "role", "disabled", "tenants", "scram", "password")
    if "password" in fields:
        fields["scram"] = await _verifier(order, name, fields)
        del fields["password"]
    if "tenants" in fields and isinstance(fields["tenants"], list):
        fields["tenants"] = tuple(fields["tenants"])
    answer = await order.give(PutOperator, **{**fields, "name": name})
    known = order.backend.state.version_of(KIND_OPERATOR, name)
    return done(answer, etag(answer.sequence if answer.events else known))


async def _verifier(order: Order, name: str, fields: dict[str, Any]) -> str:
    """The verifier of the password; the one it has, if that fits. Raises Problem."""
    wrong: list[Mistake] = []
    if "scram" in fields:
        wrong.append(Mistake("password", "comes with scram", "Keep one of the two."))
    known = order.backend.state.named(KIND_OPERATOR, name)
    before = known.settings.get("scram") if known is not None else None
    found = await verifier_of(fields["password"], before or None, "password", wrong)
    if wrong:
        order.refuse(PutOperator.TYPE)
        raise Problem("refused", "; ".join(map(str, wrong)), mistakes=wrong)
    return found


@router.delete(
    "/operators/{name}",
    status_code=204,
    summary="Refuse the tokens in that name",
    responses=described.COMMANDED,
)
async def delete_operator(order: OrderedForAll, name: Name) -> Response:
    return done(await order.give(DeleteOperator, name=name))


# --- tokens --------------------------------------------------------------------------------------


@router.get(
    "/tokens",
    summary="List command tokens that have not expired",
    responses=answers(table(tokens=listed(_TOKEN)), examples.TOKENS),
    dependencies=[Depends(caught_up)],
)
async def list_tokens(
    request: Request, backend: Behind, who: Overseer, limit: Limit = PAGE, cursor: Cursor = ""
) -> Response:
    now = backend.now()
    known = backend.state.named_all(KIND_TOKEN)
    alive = sorted(jti for jti in known if known[jti].settings.get("expires_at", 0) > now)
    found, after = page_of(alive, cursor, limit)
    rows = [{"jti": jti, **known[jti].settings} for jti in found]
    return paged(request, {"tokens": rows, "total": len(alive)}, after, limit)


@router.post(
    "/tokens",
    status_code=201,
    summary="Make a command token",
    description="The token is in this answer and nowhere else.",
    openapi_extra=described.body(
        {
            **table(name=described.NAME, role={"enum": ["viewer", "tenant-admin", "operator"]}),
            "properties": {
                "name": described.NAME,
                "role": {"enum": ["viewer", "tenant-admin", "operator"]},
                "tenant": {"type": "string", "description": "For tenant-admin."},
                "ttl": {"type": ["string", "number"], "description": "90 days at most."},
            },
        },
        examples=examples.MAKE_TOKEN,
    ),
    responses=described.made(
        table(token=described.NAME, **_TOKEN["properties"]), examples.TOKEN_MADE
    ),
)
async def create_token(request: Request, order: OrderedForAll) -> Response:
    body = only(await read_object(request), "name", "role", "tenant", "ttl")
    wrong = [
        Mistake(key, "must be a text", "Write it in double quotes.")
        for key in ("name", "role", "tenant")
        if not isinstance(body.get(key, ""), str)
    ]
    wrong += [Mistake(key, "is required") for key in ("name", "role") if not body.get(key)]
    seconds: object = 0.0
    try:
        seconds = parse_duration(body.get("ttl", DEFAULT_SECONDS))
        if not isinstance(seconds, int | float) or isinstance(seconds, bool):
            raise ValueError("a token has an end; write e.g. 8h")
        if not wrong:
            token, noted = order.backend.control.service.signer.make(
                body["name"], body["role"], tenant=body.get("tenant", ""), seconds=float(seconds)
            )
    except ValueError as error:
        wrong.append(Mistake("" if "tenant" in str(error) else "ttl", _plain(error)))
    if wrong:
        order.refuse(IssueToken.TYPE)
        raise Problem("refused", "; ".join(map(str, wrong)), mistakes=wrong)
    answer = await order.give(
        type(noted), **noted.model_dump(exclude={"command_id", "dry_run", "expected_version"})
    )
    if answer.dry_run:
        return told_only(answer)
    if answer.repeated:
        # The token that was made then is not kept anywhere; this one was never noted.
        raise Problem("reused", "a token was made by this command; revoke it if it is lost")
    told = noted.model_dump(include={"jti", "name", "role", "tenant", "issued_at", "expires_at"})
    return json({"token": token, **told}, 201, about(answer))


def _plain(error: Exception) -> str:
    """What our own code says; of pydantic's errors only that."""
    return "is not valid" if hasattr(error, "errors") else str(error)


@router.put(
    "/tokens/{jti}",
    status_code=204,
    summary="Note a token that was made elsewhere",
    description="By whoever holds the installation's key. It counts without that; noted, it is "
    "listed. Times are Unix seconds.",
    openapi_extra=described.body(
        table(
            name=described.NAME,
            role={"enum": ["viewer", "tenant-admin", "operator"]},
            issued_at=described.COUNT,
            expires_at=described.COUNT,
        ),
        examples=examples.NOTE_TOKEN,
    ),
    responses=described.COMMANDED,
)
async def note_token(request: Request, order: OrderedForAll, jti: Jti) -> Response:
    body = only(await read_object(request), "name", "role", "tenant", "issued_at", "expires_at")
    return done(await order.give(IssueToken, **{**body, "jti": jti}))


@router.delete(
    "/tokens/{jti}",
    status_code=204,
    summary="Revoke a token",
    responses=described.COMMANDED,
)
async def revoke_token(
    order: OrderedForAll,
    jti: Jti,
    expires_at: Annotated[
        int | None,
        Query(ge=0, le=2**53, description="Unix seconds; for a token that was never noted."),
    ] = None,
) -> Response:
    return done(await order.give(RevokeToken, jti=jti, expires_at=expires_at))
