"""/tenants/{id}/users: by name only; passwords come in and never go out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response

from admin.api import described, examples
from admin.api.access import Behind, TenantOf
from admin.api.bodies import read_object
from admin.api.commands import Order, Ordered, about, caught_up, done, etag, json, told_only
from admin.api.described import answers, listed, table
from admin.api.problems import Problem, missing
from admin.api.users import verifier_of
from events.commands_model import Mistake, PutUser, RemoveUser

router = APIRouter(prefix="/tenants/{id}/users", tags=["users"])

Name = Annotated[str, Path(min_length=1, max_length=63, examples=["appuser"])]
_BODY = {"password": {"type": "string", "minLength": 1}, "scram": {"type": "string"}}


@router.get(
    "",
    summary="Who may log in",
    responses=answers(table(users=listed(table(name=described.NAME))), examples.USERS),
    dependencies=[Depends(caught_up)],
)
async def list_users(backend: Behind, id: TenantOf) -> Response:
    record = backend.record(id)
    names = [user.name for user in backend.tenant(id).users]
    return json({"users": [{"name": name} for name in names]}, headers=etag(record.version))


@router.post(
    "",
    status_code=201,
    summary="Add a user",
    description="With a password, or with a SCRAM-SHA-256 verifier as PostgreSQL stores it.",
    openapi_extra=described.body(
        {**table(name=described.NAME), "properties": {"name": described.NAME, **_BODY}},
        examples=examples.ADD_USER,
    ),
    responses=described.made(table(name=described.NAME), examples.USER),
)
async def add_user(request: Request, order: Ordered, id: TenantOf) -> Response:
    body = await read_object(request)
    name = body.pop("name", None)
    record = order.backend.record(id)
    if isinstance(name, str) and any(
        user["name"] == name for user in record.settings.get("users", ())
    ):
        wrong = Mistake("name", f"there is a user {name}", "PUT changes it.")
        raise Problem("exists", str(wrong), mistakes=[wrong])
    scram = await _scram(order, id, name, body)
    answer = await order.give(PutUser, id=id, name=name, scram=scram)
    if answer.dry_run:
        return told_only(answer)
    return json({"name": name}, 201, about(answer))


@router.put(
    "/{name}",
    status_code=204,
    summary="Set a user's password, or add the user",
    openapi_extra=described.body(
        {"type": "object", "properties": _BODY}, examples=examples.PUT_USER
    ),
    responses=described.COMMANDED,
)
async def put_user(request: Request, order: Ordered, id: TenantOf, name: Name) -> Response:
    body = await read_object(request)
    scram = await _scram(order, id, name, body)
    return done(await order.give(PutUser, id=id, name=name, scram=scram))


@router.delete(
    "/{name}",
    status_code=204,
    summary="Remove a user",
    responses=described.COMMANDED,
)
async def remove_user(order: Ordered, id: TenantOf, name: Name) -> Response:
    record = order.backend.record(id)
    if all(user["name"] != name for user in record.settings.get("users", ())):
        raise missing(f"user {name}")
    return done(await order.give(RemoveUser, id=id, name=name))


async def _scram(order: Order, id: str, name: object, body: dict[str, object]) -> str:
    """The verifier that the body means. Raises Problem with all that is wrong."""
    mistakes = [Mistake(key, "is not known") for key in sorted(set(body) - {"password", "scram"})]
    if not isinstance(name, str) or not 1 <= len(name) <= 63:
        mistakes.append(Mistake("name", "must be a text of 1 to 63 characters"))
    if ("password" in body) == ("scram" in body):
        mistakes.append(Mistake("password", "one of password and scram is needed"))
    found = body.get("scram")
    if not mistakes and "password" in body:
        record = order.backend.state.record(id)
        users = record.settings.get("users", ()) if record is not None else ()
        before = next((user["scram"] for user in users if user["name"] == name), None)
        found = await verifier_of(body["password"], before, "password", mistakes)
    if mistakes:
        order.refuse(PutUser.TYPE, id)
        raise Problem("refused", "; ".join(map(str, mistakes)), mistakes=mistakes)
    return found  # type: ignore[return-value]  # anything else is refused by the command
