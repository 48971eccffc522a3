"""The verbs of commands on NATS, and how a request becomes a command.

Subject `tenantry.request.<tenant>.<verb>` or `tenantry.commands.<tenant>.<verb>`, body JSON: the
fields of the command without what the subject and the headers say already. `_installation` stands
in the place of the tenant for what concerns all of them.

    verb                body                                          who, at least
    create, put         settings, [force]                             operator
    change              patch, [force]                                tenant-admin, in part
    user-put            name, scram                                   tenant-admin
    user-remove         name                                          tenant-admin
    disable, enable     nothing                                       operator
    delete              nothing                                       operator
    purge               [force]                                       operator
    undo                sequence, [force]; [of_kind, id] for `_installation`
    tier-put            name, settings          tier-delete     name
    defaults-put        defaults, [force]
    operator-put        name, role, [disabled], [scram], [tenants]
    operator-delete     name
    token-issue         jti, name, role, [tenant], issued_at, expires_at
    token-revoke        jti, [expires_at]

With each of them: [dry_run], [expected_version], [command_id], [tenant].
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from pydantic import ValidationError

from events.commands_checks import told
from events.commands_model import (
    ChangeTenant,
    Command,
    CommandRefused,
    DeleteOperator,
    DeleteTenant,
    DeleteTier,
    DisableTenant,
    EnableTenant,
    IssueToken,
    Mistake,
    PurgeTenant,
    PutDefaults,
    PutOperator,
    PutTenant,
    PutTier,
    PutUser,
    RemoveUser,
    RevokeToken,
    Undo,
)

INSTALLATION: Final = "_installation"
# The deepest settings have five levels. What walks through them calls itself at each; and what one
# process can still store, another one must be able to fold.
DEPTH_MAX: Final = 24
REQUEST_PREFIX: Final = "tenantry.request."
COMMANDS_PREFIX: Final = "tenantry.commands."

TENANT_VERBS: Final[dict[str, type[Command]]] = {
    "create": PutTenant,
    "put": PutTenant,
    "change": ChangeTenant,
    "user-put": PutUser,
    "user-remove": RemoveUser,
    "disable": DisableTenant,
    "enable": EnableTenant,
    "delete": DeleteTenant,
    "purge": PurgeTenant,
    "undo": Undo,
}
INSTALLATION_VERBS: Final[dict[str, type[Command]]] = {
    "tier-put": PutTier,
    "tier-delete": DeleteTier,
    "defaults-put": PutDefaults,
    "operator-put": PutOperator,
    "operator-delete": DeleteOperator,
    "token-issue": IssueToken,
    "token-revoke": RevokeToken,
    "undo": Undo,
}


def parse(tenant: str, verb: str, body: bytes, command_id: str = "") -> Command:
    """The command of a request. Raises CommandRefused (code "malformed") with all mistakes."""
    given = _read(body)
    known = INSTALLATION_VERBS if tenant == INSTALLATION else TENANT_VERBS
    kind = known.get(verb)
    if kind is None:
        names = ", ".join(known)
        raise _malformed(Mistake("", f"{verb} is no verb here", f"Use one of {names}."))
    mistakes = _addressed(given, tenant, command_id)
    fields = {**given, "command_id": command_id or given.get("command_id")}
    if not fields["command_id"]:
        del fields["command_id"]
    if tenant != INSTALLATION:
        fields["id"] = tenant
        for name in ("of_kind", "create_only"):
            # The verb says it.
            if fields.pop(name, None) is not None:
                mistakes.append(Mistake(name, "is not known"))
    if verb == "create":
        fields["create_only"] = True
    try:
        command = kind.model_validate(fields)
    except ValidationError as error:
        raise _malformed(*mistakes, *told(error)) from None
    if mistakes:
        raise _malformed(*mistakes)
    return command


def _read(body: bytes) -> dict[str, Any]:
    try:
        given = orjson.loads(body) if body.strip() else {}
    except ValueError:
        raise _malformed(Mistake("", "the body is not JSON")) from None
    if not isinstance(given, dict):
        raise _malformed(Mistake("", "the body is not a JSON object"))
    if too_deep(given):
        raise _malformed(Mistake("", f"the body is nested more than {DEPTH_MAX} levels deep"))
    return given


def too_deep(found: Any) -> bool:
    """Whether JSON is nested more than DEPTH_MAX levels deep."""
    level: list[Any] = [found]
    for _ in range(DEPTH_MAX):
        below: list[Any] = []
        for value in level:
            inside = value.values() if isinstance(value, dict) else value
            below += [each for each in inside if isinstance(each, dict | list)]
        if not below:
            return False
        level = below
    return True


def _addressed(given: dict[str, Any], tenant: str, command_id: str) -> list[Mistake]:
    """What the body says twice must be what the subject and the headers say. Takes it out."""
    mistakes: list[Mistake] = []
    names = ("tenant", "id") if tenant != INSTALLATION else ()
    for name in names:
        if given.pop(name, tenant) != tenant:
            mistakes.append(Mistake(name, f"is not {tenant}, which the subject names"))
    if command_id and given.get("command_id", command_id) != command_id:
        mistakes.append(Mistake("command_id", "is not the one of the header"))
    return mistakes


def _malformed(*mistakes: Mistake) -> CommandRefused:
    return CommandRefused(list(mistakes), "malformed")


def address(command: Command) -> tuple[str, str]:
    """The tenant token and the verb that `parse` would make `command` from. Raises KeyError."""
    kinds = TENANT_VERBS if command.kind == "tenant" else INSTALLATION_VERBS
    verb = next((verb for verb, kind in kinds.items() if type(command) is kind), None)
    if verb is None:
        raise KeyError(type(command).__name__)
    if isinstance(command, PutTenant) and not command.create_only:
        verb = "put"
    return (command.subject_id if command.kind == "tenant" else INSTALLATION), verb


def body(command: Command) -> bytes:
    """The body that `parse` would make `command` from, with `address(command)`."""
    fields = command.model_dump(mode="json", exclude_defaults=True, exclude={"command_id"})
    for name in ("create_only", *(("id", "of_kind") if command.kind == "tenant" else ())):
        fields.pop(name, None)
    return orjson.dumps(fields)
