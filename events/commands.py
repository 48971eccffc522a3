"""What may be asked for, and the pure decision what facts follow from it.

`decide` looks at the folded state and answers with the difference only: asking twice for the same
thing gives no second fact. It raises CommandRefused with everything that is wrong, not just the
first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol
from uuid import uuid4

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from events.facts import (
    INSTALLATION_ID,
    KIND_INSTALLATION,
    KIND_TENANT,
    Fact,
    InstallationChanged,
    TenantChanged,
    TenantCreated,
    TenantDeleted,
    TenantDisabled,
    TenantEnabled,
    TenantProvisioned,
)
from events.installation import Installation
from events.model import Settings, Tenant, check_tenant_id
from events.projection import Record
from events.secrets import is_sealed
from events.settings import canonical, diff, merge, prune

# What only other commands may set, and who does.
_NOT_SETTINGS = {"provisioned": "provisioning", "version": "the log"}
# Defaults hold for every tenant; these name one tenant or let somebody in.
_NOT_DEFAULTS = ("id", "name", "enabled", "users", "provisioned", "version")


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong: where (dotted, "" for the whole) and what."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class CommandRefused(Exception):
    """The command breaks rules; nothing was stored. `mistakes` has all of them."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("; ".join(map(str, mistakes)))
        self.mistakes = mistakes


class Command(BaseModel):
    """A request to change. Sent again with the same command_id it still happens once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    TYPE: ClassVar[str] = ""
    VERSION: ClassVar[int] = 1
    KIND: ClassVar[str] = KIND_TENANT

    command_id: str = Field(default_factory=lambda: uuid4().hex, pattern=r"^[!-~]{1,64}$")

    @property
    def subject_id(self) -> str:
        """The id within KIND whose facts this command adds to."""
        return INSTALLATION_ID


class TenantCommand(Command):
    """The id is checked by `decide`, so that its mistakes are told with all others."""

    id: str

    @property
    def subject_id(self) -> str:
        return self.id


class PutTenant(TenantCommand):
    """Let the tenant have exactly these settings; make it if need be. "enabled" may be among them;
    left out, it stays as it is: re-reading a file must not open what an operator closed."""

    TYPE = "PutTenant"
    settings: Settings = {}


class ChangeTenant(TenantCommand):
    """Change some settings; None puts a key back to its default."""

    TYPE = "ChangeTenant"
    patch: Settings


class DisableTenant(TenantCommand):
    TYPE = "DisableTenant"


class EnableTenant(TenantCommand):
    TYPE = "EnableTenant"


class DeleteTenant(TenantCommand):
    TYPE = "DeleteTenant"


class RecordProvisioned(TenantCommand):
    """What provisioning has made. `secret` is sealed (events.secrets)."""

    TYPE = "RecordProvisioned"
    role: str
    secret: str
    node: str = ""
    fingerprint: str = ""


class PutInstallation(Command):
    """Let the installation have exactly these settings; nodes' passwords sealed before."""

    TYPE = "PutInstallation"
    KIND = KIND_INSTALLATION
    settings: Settings


class State(Protocol):
    """What deciding needs to know; a Projection has it."""

    def record(self, id: str) -> Record | None: ...

    def installation_settings(self) -> Settings: ...

    def tenant_count(self) -> int: ...


def decide(state: State, command: Command) -> list[Fact]:
    """The facts that follow; none when all is as asked already. Raises CommandRefused."""
    if isinstance(command, PutInstallation):
        return _put_installation(state, command)
    assert isinstance(command, TenantCommand), f"{type(command).__name__} cannot be decided"
    mistakes: list[Mistake] = []
    try:
        check_tenant_id(command.id)
    except ValueError as error:
        mistakes.append(Mistake("id", str(error)))
    record = state.record(command.id)
    mistakes += _standing(record, command)
    facts: list[Fact] = []
    if isinstance(command, PutTenant):
        facts = _put_tenant(state, record, command, mistakes)
    elif isinstance(command, ChangeTenant) and record is not None:
        facts = _change_tenant(state, record, command, mistakes)
    elif isinstance(command, RecordProvisioned) and record is not None:
        facts = _provisioned(record, command, mistakes)
    elif isinstance(command, EnableTenant | DisableTenant) and record is not None:
        facts = _switch(record, isinstance(command, EnableTenant))
    elif isinstance(command, DeleteTenant):
        facts = [] if record is not None and record.deleted else [TenantDeleted()]
    if mistakes:
        raise CommandRefused(mistakes)
    return facts


def _standing(record: Record | None, command: TenantCommand) -> list[Mistake]:
    """What speaks against any command on this tenant."""
    if record is not None and record.deleted and not isinstance(command, DeleteTenant):
        return [Mistake("id", f"{command.id} was deleted, and an id is never used again")]
    if (
        record is not None
        and record.parked
        and not isinstance(command, DisableTenant | DeleteTenant)
    ):
        return [Mistake("id", f"{command.id} is parked ({record.parked}); upgrade this process")]
    missing = record is None or not record.exists
    if missing and not isinstance(command, PutTenant):
        return [Mistake("id", f"there is no tenant {command.id}")]
    return []


def _put_tenant(
    state: State, record: Record | None, command: PutTenant, mistakes: list[Mistake]
) -> list[Fact]:
    wanted = _check_tenant(state, command.id, command.settings, mistakes)
    enabled = wanted.pop("enabled", None)
    if record is None:
        most = _max_tenants(state)
        if most is not None and state.tenant_count() >= most:
            mistakes.append(Mistake("id", f"the installation's max_tenants ({most}) is reached"))
        created: list[Fact] = [TenantCreated(settings=wanted)]
        return created if enabled is not False else [*created, TenantDisabled()]
    return _difference(record, wanted, record.enabled if enabled is None else enabled)


def _change_tenant(
    state: State, record: Record, command: ChangeTenant, mistakes: list[Mistake]
) -> list[Fact]:
    patch = dict(command.patch)
    # Unlike in PutTenant, None is said outright here: back to the default, which is enabled.
    enabled = record.enabled
    if "enabled" in patch and patch["enabled"] is None:
        enabled, patch = True, {key: v for key, v in patch.items() if key != "enabled"}
    wanted = _check_tenant(state, command.id, merge(record.settings, patch), mistakes)
    return _difference(record, wanted, wanted.pop("enabled", enabled))


def _difference(record: Record, wanted: Settings, enabled: bool) -> list[Fact]:
    changes = diff(record.settings, wanted)
    facts: list[Fact] = [TenantChanged(changes=changes)] if changes else []
    return facts + _switch(record, enabled)


def _switch(record: Record, enabled: bool) -> list[Fact]:
    if record.enabled == enabled:
        return []
    return [TenantEnabled() if enabled else TenantDisabled()]


def _provisioned(record: Record, command: RecordProvisioned, mistakes: list[Mistake]) -> list[Fact]:
    if not is_sealed(command.secret):
        mistakes.append(Mistake("secret", "must be sealed before it becomes an event"))
    fact = TenantProvisioned(
        role=command.role,
        secret=command.secret,
        node=command.node,
        fingerprint=command.fingerprint,
    )
    return [] if record.provisioned == fact.model_dump() else [fact]


def _check_tenant(state: State, id: str, settings: Settings, mistakes: list[Mistake]) -> Settings:
    """`settings` normalised; what is wrong, alone or on top of the defaults, joins `mistakes`."""
    settings = prune(settings)
    if settings.pop("id", id) != id:
        mistakes.append(Mistake("id", "settings name another tenant"))
    for key, owner in _NOT_SETTINGS.items():
        if settings.pop(key, None) is not None:
            mistakes.append(Mistake(key, f"is set by {owner} only"))
    try:
        alone = Tenant.model_validate({**settings, "id": _VALID_ID})
        defaults = state.installation_settings().get("defaults", {})
        Tenant.model_validate({**merge(defaults, settings), "id": _VALID_ID})
    except ValidationError as error:
        mistakes += _told(error)
        return {}
    wanted = _storable(alone, mistakes)
    wanted.pop("id", None)
    return wanted


# The id is judged apart from the settings; this one keeps its mistakes from being told twice.
_VALID_ID = "a"


def _put_installation(state: State, command: PutInstallation) -> list[Fact]:
    settings = prune(command.settings)
    mistakes: list[Mistake] = []
    wanted: Settings = {}
    try:
        installation = Installation.model_validate(settings)
    except ValidationError as error:
        mistakes += _told(error)
    else:
        wanted = _storable(installation, mistakes)
        for index, node in enumerate(installation.nodes):
            if node.password and not is_sealed(node.password):
                where = f"nodes.{index}.password"
                mistakes.append(Mistake(where, "must be sealed before it becomes an event"))
    mistakes += _check_defaults(settings.get("defaults", {}))
    if mistakes:
        raise CommandRefused(mistakes)
    known = state.installation_settings()
    return [] if known == wanted else [InstallationChanged(settings=wanted)]


def _check_defaults(defaults: Any) -> list[Mistake]:
    if not isinstance(defaults, dict):
        return []
    mistakes = [
        Mistake(f"defaults.{key}", "cannot have a default for all tenants")
        for key in _NOT_DEFAULTS
        if key in defaults
    ]
    allowed = {key: value for key, value in defaults.items() if key not in _NOT_DEFAULTS}
    try:
        Tenant.model_validate({**allowed, "id": _VALID_ID})
    except ValidationError as error:
        mistakes += [Mistake(f"defaults.{each.path}", each.message) for each in _told(error)]
    return mistakes


def _storable(model: BaseModel, mistakes: list[Mistake]) -> Settings:
    """The settings of `model` as they come back from storage. Infinity, not-a-number, integers over
    64 bits and broken Unicode are not JSON; stored, they would become something else."""
    try:
        stored: Settings = orjson.loads(orjson.dumps(canonical(model)))
        type(model).model_validate(stored)
        return stored
    except (TypeError, ValueError):
        mistakes.append(Mistake("", "holds a number or text that cannot be stored as JSON"))
        return {}


def _max_tenants(state: State) -> int | None:
    most = state.installation_settings().get("max_tenants")
    return most if isinstance(most, int) else None


def _told(error: ValidationError) -> list[Mistake]:
    found = error.errors(include_input=False, include_url=False, include_context=False)
    return [
        Mistake(
            ".".join(map(str, each["loc"])),
            "is not known" if each["type"] == "extra_forbidden" else _plain(each["msg"]),
        )
        for each in found
    ]


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ")
