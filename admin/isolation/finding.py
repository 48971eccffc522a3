"""What the audit of isolation finds, and whom it concerns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from admin.protect.names import group_role, groups, row_role
from admin.provision.names import role_name
from events.model import Tenant

Severity = Literal["hole", "risk", "note"]
SEVERITIES: Final[tuple[Severity, ...]] = ("hole", "risk", "note")
PUBLIC: Final = "PUBLIC"


@dataclass(frozen=True)
class Finding:
    """hole: a tenant reaches what is another's. risk: it would with little more, or infers it.
    note: worth knowing. `tenants` are those who could use it; `database` is "" for the server."""

    severity: Severity
    check: str
    database: str
    object: str
    what: str
    fix: str
    tenants: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Place:
    """A database of tenants, and which roles act there for whom."""

    database: str
    tenants: list[Tenant]
    whom: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Tenants by the role that acts for them; PUBLIC acts for all."""

    def __post_init__(self) -> None:
        row = tuple(each.id for each in self.row_tenants)
        for tenant in self.tenants:
            self.whom[role_name(tenant.id)] = (tenant.id,)
        if row:
            for role in (row_role(self.database), *groups(self.database).values()):
                self.whom[role] = row
        self.whom[PUBLIC] = tuple(each.id for each in self.tenants)

    @property
    def row_tenants(self) -> list[Tenant]:
        return [each for each in self.tenants if each.isolation.strategy == "row"]

    @property
    def sealed(self) -> bool:
        """Whether the database itself keeps any row tenant to its rows."""
        return any(each.isolation.enforcement != "rewrite" for each in self.row_tenants)

    @property
    def alone(self) -> bool:
        """Whether the database is one tenant's, with all that is in it."""
        return any(each.isolation.strategy in ("database", "branch") for each in self.tenants)

    def who(self, roles: Iterable[str], row_only: bool = False) -> tuple[str, ...]:
        """The tenants behind roles; of a role that is nobody's here, its name."""
        found: dict[str, None] = {}
        rows = {each.id for each in self.row_tenants}
        for role in roles:
            for tenant in self.whom.get(role, (role,)):
                if not row_only or tenant in rows or role not in self.whom:
                    found[tenant] = None
        return tuple(sorted(found))

    def roles(self, *, row: bool) -> list[str]:
        """Roles through which tenants have privileges; with `row` only row tenants'."""
        if not row:
            return [role for role in self.whom if role != PUBLIC]
        own = [role_name(each.id) for each in self.row_tenants]
        if not own:
            return []
        shared = [group_role(each.lower(), self.database) for each in groups(self.database)]
        return [*own, row_role(self.database), *shared]


def places(tenants: Iterable[Tenant]) -> list[Place]:
    """The databases of tenants, by name."""
    found: dict[str, list[Tenant]] = {}
    for tenant in tenants:
        found.setdefault(tenant.database, []).append(tenant)
    return [Place(database, found[database]) for database in sorted(found)]
