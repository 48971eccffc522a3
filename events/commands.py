"""The pure decision what facts follow from a command.

`decide` looks at the folded state and answers with the difference only: asking twice for the same
thing gives no second fact. It raises CommandRefused with everything that is wrong, not just the
first.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Protocol

from events.commands_checks import check_installation, check_tier
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
    OperatorCommand,
    PurgeTenant,
    PutDefaults,
    PutInstallation,
    PutOperator,
    PutTenant,
    PutTier,
    PutUser,
    RecordProvisioned,
    RemoveUser,
    RevokeToken,
    TenantCommand,
    TierCommand,
    TokenCommand,
    Undo,
)
from events.commands_tenant import decide_tenant
from events.facts import (
    KIND_OPERATOR,
    KIND_TIER,
    KIND_TOKEN,
    Fact,
    InstallationChanged,
    OperatorDeleted,
    OperatorSet,
    TierDeleted,
    TierSet,
    TokenIssued,
    TokenRevoked,
)
from events.model import Settings
from events.named import TOKEN_SECONDS_MAX, Named, operator_settings
from events.places import Place, place_of
from events.projection import Record

__all__ = [
    "ChangeTenant", "Command", "CommandRefused", "DeleteOperator", "DeleteTenant", "DeleteTier",
    "DisableTenant", "EnableTenant", "IssueToken", "Mistake", "PurgeTenant", "PutDefaults",
    "PutInstallation", "PutOperator", "PutTenant", "PutTier", "PutUser", "RecordProvisioned",
    "RemoveUser", "RevokeToken", "State", "TenantCommand", "Undo", "decide",
]  # fmt: skip


class State(Protocol):
    """What deciding needs to know; a Projection has it."""

    def record(self, id: str) -> Record | None: ...

    def ids(self) -> Iterator[str]: ...

    def named(self, kind: str, id: str) -> Named | None: ...

    def version_of(self, kind: str, id: str) -> int: ...

    def installation_settings(self) -> Settings: ...

    def defaults(self) -> Settings: ...

    def tier_settings(self, tier: str | None) -> Settings: ...

    def tier_users(self, tier: str) -> int: ...

    def tenant_count(self) -> int: ...

    def rival(self, id: str, place: Place) -> str | None: ...


def decide(state: State, command: Command, now: datetime | None = None) -> list[Fact]:
    """The facts that follow; none when all is as asked already. Raises CommandRefused.

    Only a purge and a revocation ask what time it is (`now`, UTC).
    """
    _expect(state, command)
    if isinstance(command, TenantCommand):
        return decide_tenant(state, command, now or datetime.now(UTC))
    if isinstance(command, PutInstallation):
        return _put_installation(state, command.settings, command.force)
    if isinstance(command, PutDefaults):
        settings = {**state.installation_settings(), "defaults": command.defaults}
        return _put_installation(state, settings, command.force)
    if isinstance(command, TierCommand):
        return _decide_tier(state, command)
    if isinstance(command, OperatorCommand):
        return _decide_operator(state, command)
    assert isinstance(command, TokenCommand), f"{type(command).__name__} cannot be decided"
    return _decide_token(state, command, now or datetime.now(UTC))


def _expect(state: State, command: Command) -> None:
    wanted = command.expected_version
    if wanted is None:
        return
    found = state.version_of(command.kind, command.subject_id)
    if found != wanted:
        mistake = Mistake(
            "expected_version",
            f"{command.kind} {command.subject_id} is at version {found}, not at {wanted}",
            "Read it again, and decide again.",
        )
        raise CommandRefused([mistake], "changed")


# --- the installation ----------------------------------------------------------------------------


def _put_installation(state: State, settings: Settings, force: bool) -> list[Fact]:
    mistakes: list[Mistake] = []
    wanted = check_installation(settings, mistakes)
    if not mistakes and not force:
        mistakes += _moves(state, wanted.get("defaults", {}))
    if mistakes:
        raise CommandRefused(mistakes)
    known = state.installation_settings()
    return [] if known == wanted else [InstallationChanged(settings=wanted)]


def _moves(state: State, defaults: Settings) -> list[Mistake]:
    """Defaults of isolation say for some where their data is: it would not follow."""
    before = state.defaults()
    if before.get("isolation", {}) == defaults.get("isolation", {}):
        return []
    moved: list[str] = []
    for id in state.ids():
        record = state.record(id)
        if record is None or record.provisioned is None:
            continue
        old = place_of(id, record.settings, before)
        if old is not None and old != place_of(id, record.settings, defaults):
            moved.append(id)
    if not moved:
        return []
    names = ", ".join(moved[:5]) + (f" and {len(moved) - 5} more" if len(moved) > 5 else "")
    return [
        Mistake(
            "defaults.isolation",
            f"says where the data of {names} is, which would not move with it",
            "Set the isolation of those tenants first, or force it. Migration comes later.",
        )
    ]


# --- tiers ---------------------------------------------------------------------------------------


def _decide_tier(state: State, command: TierCommand) -> list[Fact]:
    known = state.named(KIND_TIER, command.name)
    exists = known is not None and not known.deleted
    if isinstance(command, DeleteTier):
        if known is None:
            raise _missing("tier", command.name)
        users = state.tier_users(command.name)
        if users:
            count = "1 tenant has it" if users == 1 else f"{users} tenants have it"
            mistake = Mistake("name", f"the tier {command.name} is in use: {count}")
            raise CommandRefused([mistake])
        return [TierDeleted()] if exists else []
    assert isinstance(command, PutTier)
    mistakes: list[Mistake] = []
    wanted = check_tier(command.settings, state.defaults(), mistakes)
    if mistakes:
        raise CommandRefused(mistakes)
    if known is not None and exists and known.settings == wanted:
        return []
    return [TierSet(settings=wanted)]


# --- operators and tokens ------------------------------------------------------------------------


def _decide_operator(state: State, command: OperatorCommand) -> list[Fact]:
    known = state.named(KIND_OPERATOR, command.name)
    if isinstance(command, DeleteOperator):
        if known is None:
            raise _missing("operator", command.name)
        return [] if known.deleted else [OperatorDeleted()]
    assert isinstance(command, PutOperator)
    before: dict[str, Any] = {} if known is None or known.deleted else known.settings
    scram = before.get("scram", "") if command.scram is None else command.scram
    tenants = before.get("tenants", ()) if command.tenants is None else command.tenants
    fact = OperatorSet(
        role=command.role, disabled=command.disabled, scram=scram, tenants=tuple(tenants)
    )
    return [] if before == operator_settings(fact) else [fact]


def _decide_token(state: State, command: TokenCommand, now: datetime) -> list[Fact]:
    known = state.named(KIND_TOKEN, command.jti)
    settings: dict[str, Any] = {} if known is None or known.deleted else known.settings
    if isinstance(command, RevokeToken):
        expires = command.expires_at
        if not settings and expires is None:
            raise _missing("token", command.jti)
        # A revocation is forgotten after that date, and whoever gives it for a token that was never
        # noted may be wrong; none lives longer than this.
        unknown = 0 if settings else int(now.timestamp()) + TOKEN_SECONDS_MAX
        until = max(expires or 0, settings.get("expires_at", 0), unknown)
        return [] if settings.get("revoked") else [TokenRevoked(expires_at=until)]
    assert isinstance(command, IssueToken)
    mistakes: list[Mistake] = []
    if (command.role == "tenant-admin") != bool(command.tenant):
        mistakes.append(Mistake("tenant", "is for the role tenant-admin, which needs it"))
    if known is not None:
        mistakes.append(Mistake("jti", "was issued or revoked before"))
    if mistakes:
        raise CommandRefused(mistakes)
    issued = command.model_dump(include=set(TokenIssued.model_fields))
    return [TokenIssued.model_validate(issued)]


def _missing(what: str, name: str) -> CommandRefused:
    return CommandRefused([Mistake("name", f"there is no {what} {name}")], "missing")
