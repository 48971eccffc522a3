"""Tiers, and the settings of tenants that set nothing themselves."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response

from admin.api import described, examples, shown
from admin.api.access import Behind, Overseer
from admin.api.backend import Backend, page_of
from admin.api.bodies import read_object
from admin.api.commands import Order, OrderedForAll, about, caught_up, done, etag, json, told_only
from admin.api.described import answers, changed, listed, table
from admin.api.limits import PAGE
from admin.api.pages import Cursor, Limit, paged
from admin.api.problems import Problem, missing
from admin.api.routes_tenants import Force
from admin.api.shapes import Shaped, settings_of
from events.commands_model import DeleteTier, Mistake, PutDefaults, PutTier
from events.facts import KIND_INSTALLATION, KIND_TIER
from events.model import Settings
from events.settings import merge

router = APIRouter()
TierName = Annotated[
    str, Path(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", max_length=63, examples=["enterprise"])
]
_TIER = table(
    name=described.NAME,
    settings=described.OBJECT,
    tenants=described.COUNT,
    version=described.COUNT,
)
# What GET says of a tier: sent back, it is no mistake.
_SHOWN = frozenset({"name", "settings", "tenants", "version", "ignored"})
# A change that rests on what was read is tried again when somebody else was faster.
TRIES_MAX = 3


# --- tiers ---------------------------------------------------------------------------------------


@router.get(
    "/tiers",
    tags=["tiers"],
    summary="List tiers",
    responses=answers(table(tiers=listed(_TIER)), examples.TIERS),
    dependencies=[Depends(caught_up)],
)
async def list_tiers(
    request: Request,
    backend: Behind,
    who: Overseer,
    limit: Limit = PAGE,
    cursor: Cursor = "",
) -> Response:
    known = sorted(backend.state.named_all(KIND_TIER))
    names, after = page_of(known, cursor, limit)
    body = {"tiers": [_tier(backend, name) for name in names], "total": len(known)}
    return paged(request, body, after, limit)


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
    responses=answers(_TIER, examples.TIER),
    dependencies=[Depends(caught_up)],
)
async def get_tier(backend: Behind, who: Overseer, name: TierName) -> Response:
    found = _tier(backend, name)
    return json(found, headers=etag(found["version"]))


@router.put(
    "/tiers/{name}",
    tags=["tiers"],
    summary="Let the tier set exactly this; make it if need be",
    openapi_extra=described.body(examples=examples.PUT_TIER),
    responses=changed(_TIER, example=examples.TIER),
)
async def put_tier(request: Request, order: OrderedForAll, name: TierName) -> Response:
    shaped = _shaped(order, _set_of_tier(order, name, await read_object(request)))
    answer = await order.give(PutTier, name=name, settings=shaped.settings)
    return _tier_now(order, name, answer, shaped)


def _set_of_tier(order: Order, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """What the body sets; of an answer of ours that is sent back, its `settings`. Raises Problem
    for a tier of another name."""
    if body.get("name", name) != name:
        order.refuse(PutTier.TYPE)
        wrong = Mistake("name", f"is not {name}, which the address names")
        raise Problem("refused", str(wrong), mistakes=[wrong])
    if isinstance(body.get("settings"), dict) and set(body) <= _SHOWN:
        return dict(body["settings"])
    return {key: value for key, value in body.items() if key != "name"}


@router.patch(
    "/tiers/{name}",
    tags=["tiers"],
    summary="Change some settings of the tier",
    description="A merge patch (RFC 7396).",
    openapi_extra=described.body(patch=True, examples=examples.PATCH_TIER),
    responses=changed(_TIER, example=examples.TIER),
)
async def patch_tier(request: Request, order: OrderedForAll, name: TierName) -> Response:
    body = _set_of_tier(order, name, await read_object(request))
    shaped = _shaped(order, body, order.backend.state.tier_settings(name))
    asked = order.expected
    for _ in range(TRIES_MAX):
        known = order.backend.state.named(KIND_TIER, name)
        if known is None or known.deleted:
            raise missing(f"tier {name}")
        order.expected = known.version if asked is None else asked
        settings = merge(known.settings, shaped.settings)
        answer = await order.try_to_give(PutTier, name=name, settings=settings)
        if answer.code != "changed" or asked is not None:
            break
    if not answer.accepted:
        raise Problem.of(answer)
    return _tier_now(order, name, answer, shaped)


def _tier_now(order: Order, name: str, answer: Any, shaped: Shaped) -> Response:
    if answer.dry_run:
        return told_only(answer, **shaped.told)
    found = _tier(order.backend, name)
    return json({**found, **shaped.told}, headers={**about(answer), **etag(found["version"])})


def _shaped(order: Order, body: dict[str, Any], known: Settings | None = None) -> Shaped:
    """The body in our arrangement; `known` is what it is laid over. Raises Problem."""
    rates = (known or {}).get("rate_limits", {})
    shaped = settings_of(body, qps=rates.get("qps_limit") if isinstance(rates, dict) else None)
    if shaped.mistakes:
        order.refuse("settings")
        raise Problem("refused", "; ".join(map(str, shaped.mistakes)), mistakes=shaped.mistakes)
    return shaped


@router.delete(
    "/tiers/{name}",
    tags=["tiers"],
    status_code=204,
    summary="Delete a tier that no tenant has",
    responses=described.COMMANDED,
)
async def delete_tier(order: OrderedForAll, name: TierName) -> Response:
    return done(await order.give(DeleteTier, name=name))


# --- defaults ------------------------------------------------------------------------------------


@router.get(
    "/defaults",
    tags=["tiers"],
    summary="Settings of tenants that do not set them",
    responses=answers(described.OBJECT, examples.DEFAULTS),
    dependencies=[Depends(caught_up)],
)
async def get_defaults(backend: Behind, who: Overseer) -> Response:
    version = backend.state.version_of(KIND_INSTALLATION, "main")
    return json(shown.settings(backend.state.defaults()), headers=etag(version))


@router.put(
    "/defaults",
    tags=["tiers"],
    summary="Let tenants have exactly these defaults",
    openapi_extra=described.body(examples=examples.PUT_DEFAULTS),
    responses=changed(described.OBJECT, example=examples.DEFAULTS),
)
async def put_defaults(request: Request, order: OrderedForAll, force: Force = False) -> Response:
    shaped = _shaped(order, await read_object(request))
    answer = await order.give(PutDefaults, defaults=shaped.settings, force=force)
    return _defaults_now(order, answer, shaped)


@router.patch(
    "/defaults",
    tags=["tiers"],
    summary="Change some defaults",
    description="A merge patch (RFC 7396).",
    openapi_extra=described.body(patch=True, examples=examples.PATCH_DEFAULTS),
    responses=changed(described.OBJECT, example=examples.DEFAULTS),
)
async def patch_defaults(request: Request, order: OrderedForAll, force: Force = False) -> Response:
    shaped = _shaped(order, await read_object(request), order.backend.state.defaults())
    asked = order.expected
    for _ in range(TRIES_MAX):
        state = order.backend.state
        version = state.version_of(KIND_INSTALLATION, "main")
        order.expected = version if asked is None else asked
        defaults = merge(state.defaults(), shaped.settings)
        answer = await order.try_to_give(PutDefaults, defaults=defaults, force=force)
        if answer.code != "changed" or asked is not None:
            break
    if not answer.accepted:
        raise Problem.of(answer)
    return _defaults_now(order, answer, shaped)


def _defaults_now(order: Order, answer: Any, shaped: Shaped) -> Response:
    if answer.dry_run:
        return told_only(answer, **shaped.told)
    state = order.backend.state
    version = state.version_of(KIND_INSTALLATION, "main")
    body = {**shown.settings(state.defaults()), **shaped.told}
    return json(body, headers={**about(answer), **etag(version)})
