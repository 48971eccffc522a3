"""Tiers, defaults, operators and command tokens."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response

from admin.api import described, shown
from admin.api.access import Behind, Overseer
from admin.api.backend import Backend
from admin.api.bodies import read_object
from admin.api.commands import Order, Ordered, about, caught_up, done, etag, json, told_only
from admin.api.described import answers, changed, listed, table
from admin.api.problems import Problem, missing
from admin.api.shapes import settings_of
from events.commands_model import (
    DeleteOperator,
    DeleteTier,
    Mistake,
    PutDefaults,
    PutOperator,
    PutTier,
    RevokeToken,
)
from events.facts import KIND_INSTALLATION, KIND_OPERATOR, KIND_TIER, KIND_TOKEN
from events.model import Settings, parse_duration
from events.settings import merge
from events.tokens import DEFAULT_SECONDS

router = APIRouter()
TierName = Annotated[
    str, Path(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", max_length=63, examples=["enterprise"])
]
Name = Annotated[str, Path(min_length=1, max_length=63, examples=["ann"])]
Jti = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{8,64}$", max_length=64)]
_TIER = table(name=described.NAME, settings=described.OBJECT, tenants=described.COUNT)
_OPERATOR = table(
    name=described.NAME, role={"enum": ["viewer", "operator"]}, disabled={"type": "boolean"}
)
_TOKEN = table(
    jti=described.NAME, name=described.NAME, role=described.NAME, expires_at=described.COUNT
)
# A change that rests on what was read is tried again when somebody else was faster.
TRIES_MAX = 3


# --- tiers ---------------------------------------------------------------------------------------


@router.get(
    "/tiers",
    tags=["tiers"],
    summary="List tiers",
    responses=answers(table(tiers=listed(_TIER))),
    dependencies=[Depends(caught_up)],
)
async def list_tiers(backend: Behind, who: Overseer) -> Response:
    tiers = sorted(backend.state.named_all(KIND_TIER))
    return json({"tiers": [_tier(backend, name) for name in tiers]})


def _tier(backend: Backend, name: str) -> dict[str, Any]:
    found = backend.state.named(KIND_TIER, name)
    if found is None or found.deleted:
        raise missing(f"tier {name}")
    return {
        "name": name,
        "settings": shown.settings(found.settings),
        "tenants": backend.state.tier_users(name),
        "version": found.version,
    }


@router.get(
    "/tiers/{name}",
    tags=["tiers"],
    summary="One tier",
    responses=answers(_TIER),
    dependencies=[Depends(caught_up)],
)
async def get_tier(backend: Behind, who: Overseer, name: TierName) -> Response:
    found = _tier(backend, name)
    return json(found, headers=etag(found["version"]))


@router.put(
    "/tiers/{name}",
    tags=["tiers"],
    summary="Let the tier set exactly this; make it if need be",
    openapi_extra=described.body(
        examples={"starter": {"rate_limits": {"requests_per_second": 1000}}}
    ),
    responses=changed(_TIER),
)
async def put_tier(request: Request, order: Ordered, name: TierName) -> Response:
    settings = _shaped(order, await read_object(request))
    answer = await order.give(PutTier, name=name, settings=settings)
    return _tier_now(order, name, answer)


@router.patch(
    "/tiers/{name}",
    tags=["tiers"],
    summary="Change some settings of the tier",
    description="A merge patch (RFC 7396).",
    openapi_extra=described.body(patch=True),
    responses=changed(_TIER),
)
async def patch_tier(request: Request, order: Ordered, name: TierName) -> Response:
    patch = _shaped(order, await read_object(request))
    asked = order.expected
    for _ in range(TRIES_MAX):
        known = order.backend.state.named(KIND_TIER, name)
        if known is None or known.deleted:
            raise missing(f"tier {name}")
        order.expected = known.version if asked is None else asked
        settings = merge(known.settings, patch)
        answer = await order.try_to_give(PutTier, name=name, settings=settings)
        if answer.code != "changed" or asked is not None:
            break
    if not answer.accepted:
        raise Problem.of(answer)
    return _tier_now(order, name, answer)


def _tier_now(order: Order, name: str, answer: Any) -> Response:
    if answer.dry_run:
        return told_only(answer)
    found = _tier(order.backend, name)
    return json(found, headers={**about(answer), **etag(found["version"])})


def _shaped(order: Order, body: dict[str, Any]) -> Settings:
    """The body in our arrangement. Raises Problem."""
    body.pop("name", None)
    shaped = settings_of(body)
    if shaped.mistakes:
        order.refuse("settings")
        raise Problem("refused", "; ".join(map(str, shaped.mistakes)), mistakes=shaped.mistakes)
    return shaped.settings


@router.delete(
    "/tiers/{name}",
    tags=["tiers"],
    status_code=204,
    summary="Delete a tier that no tenant has",
    responses=described.COMMANDED,
)
async def delete_tier(order: Ordered, name: TierName) -> Response:
    return done(await order.give(DeleteTier, name=name))


# --- defaults ------------------------------------------------------------------------------------


@router.get(
    "/defaults",
    tags=["tiers"],
    summary="Settings of tenants that do not set them",
    responses=answers(described.OBJECT),
    dependencies=[Depends(caught_up)],
)
async def get_defaults(backend: Behind, who: Overseer) -> Response:
    version = backend.state.version_of(KIND_INSTALLATION, "main")
    return json(shown.settings(backend.state.defaults()), headers=etag(version))


@router.put(
    "/defaults",
    tags=["tiers"],
    summary="Let tenants have exactly these defaults",
    openapi_extra=described.body(examples={"flat": {"max_connections": 10, "qps_limit": 100}}),
    responses=answers(described.OBJECT),
)
async def put_defaults(request: Request, order: Ordered) -> Response:
    settings = _shaped(order, await read_object(request))
    answer = await order.give(PutDefaults, defaults=settings)
    return _defaults_now(order, answer)


@router.patch(
    "/defaults",
    tags=["tiers"],
    summary="Change some defaults",
    description="A merge patch (RFC 7396).",
    openapi_extra=described.body(patch=True),
    responses=answers(described.OBJECT),
)
async def patch_defaults(request: Request, order: Ordered) -> Response:
    patch = _shaped(order, await read_object(request))
    asked = order.expected
    for _ in range(TRIES_MAX):
        state = order.backend.state
        version = state.version_of(KIND_INSTALLATION, "main")
        order.expected = version if asked is None else asked
        answer = await order.try_to_give(PutDefaults, defaults=merge(state.defaults(), patch))
        if answer.code != "changed" or asked is not None:
            break
    if not answer.accepted:
        raise Problem.of(answer)
    return _defaults_now(order, answer)


def _defaults_now(order: Order, answer: Any) -> Response:
    if answer.dry_run:
        return told_only(answer)
    state = order.backend.state
    version = state.version_of(KIND_INSTALLATION, "main")
    return json(shown.settings(state.defaults()), headers={**about(answer), **etag(version)})


# --- operators -----------------------------------------------------------------------------------


@router.get(
    "/operators",
    tags=["access"],
    summary="List operators",
    responses=answers(table(operators=listed(_OPERATOR))),
    dependencies=[Depends(caught_up)],
)
async def list_operators(backend: Behind, who: Overseer) -> Response:
    known = backend.state.named_all(KIND_OPERATOR)
    # The verifier of an SQL password is nobody's to see, and the rest is as documented.
    rows = [
        {
            "name": name,
            **{k: v for k, v in known[name].settings.items() if k in ("role", "disabled")},
        }
        for name in sorted(known)
    ]
    return json({"operators": rows})


@router.put(
    "/operators/{name}",
    tags=["access"],
    status_code=204,
    summary="Give an operator a role, or shut one out",
    description="Tokens in that name are good for no more than that.",
    openapi_extra=described.body(
        {
            **table(role={"enum": ["viewer", "operator"]}),
            "properties": {
                "role": {"enum": ["viewer", "operator"]},
                "disabled": {"type": "boolean"},
            },
        },
        examples={"viewer": {"role": "viewer"}},
    ),
    responses=described.COMMANDED,
)
async def put_operator(request: Request, order: Ordered, name: Name) -> Response:
    body = await read_object(request)
    return done(await order.give(PutOperator, **{**_only(body, "role", "disabled"), "name": name}))


@router.delete(
    "/operators/{name}",
    tags=["access"],
    status_code=204,
    summary="Refuse the tokens in that name",
    responses=described.COMMANDED,
)
async def delete_operator(order: Ordered, name: Name) -> Response:
    return done(await order.give(DeleteOperator, name=name))


def _only(body: dict[str, Any], *names: str) -> dict[str, Any]:
    """The body, when it holds nothing else: what else a command has is not the body's to say."""
    strange = [Mistake(key[:64], "is not known") for key in sorted(set(body) - set(names))]
    if strange:
        raise Problem("refused", "; ".join(map(str, strange)), mistakes=strange)
    return body


# --- tokens --------------------------------------------------------------------------------------


@router.get(
    "/tokens",
    tags=["access"],
    summary="List command tokens that have not expired",
    responses=answers(table(tokens=listed(_TOKEN))),
    dependencies=[Depends(caught_up)],
)
async def list_tokens(backend: Behind, who: Overseer) -> Response:
    now = backend.now()
    rows = [
        {"jti": jti, **each.settings}
        for jti, each in backend.state.named_all(KIND_TOKEN).items()
        if each.settings.get("expires_at", 0) > now
    ]
    return json({"tokens": rows})


@router.post(
    "/tokens",
    tags=["access"],
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
        examples={"viewer": {"name": "grafana", "role": "viewer", "ttl": "30d"}},
    ),
    responses={
        **answers({**_TOKEN}, status=201, words="It was made."),
        200: answers(described.ANSWER, words="What would be stored (dry run).")[200],
    },
)
async def create_token(request: Request, order: Ordered) -> Response:
    body = _only(await read_object(request), "name", "role", "tenant", "ttl")
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
        order.refuse("IssueToken")
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


@router.delete(
    "/tokens/{jti}",
    tags=["access"],
    status_code=204,
    summary="Revoke a token",
    responses=described.COMMANDED,
)
async def revoke_token(order: Ordered, jti: Jti) -> Response:
    return done(await order.give(RevokeToken, jti=jti))
