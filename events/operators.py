"""Who may give which command.

    role           may
    viewer         read
    tenant-admin   change users and metadata of one tenant: neither limits, nor the place of its
                   data, nor whether it is enabled, which are between it and the operator
    operator       everything

A token names somebody. What the log says of an operator of that name bounds what the token is good
for: an operator who was made a viewer, shut out or deleted is so for every token at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Protocol

from events.commands_model import (
    ChangeTenant,
    Command,
    Mistake,
    PutUser,
    RemoveUser,
    TenantCommand,
)
from events.facts import KIND_OPERATOR
from events.named import Named

Role = Literal["viewer", "tenant-admin", "operator"]
ROLES: Final[tuple[Role, ...]] = ("viewer", "tenant-admin", "operator")

# Settings that the tenant's own administrator may change.
TENANT_ADMIN_MAY: Final = frozenset({"users", "metadata"})


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: shown to be so by a token or by being this process. `tenant` bounds it to one: the
    role tenant-admin, or what was one before its operator was made a viewer; `jti` names the token;
    `address` is where the request came from."""

    name: str
    role: Role
    tenant: str = ""
    jti: str = ""
    address: str = ""

    def may_read(self, tenant: str) -> bool:
        """Whether it may see the configuration of `tenant`; "" is what concerns all."""
        if not self.tenant:
            return self.role != "tenant-admin"
        return tenant == self.tenant


class Known(Protocol):
    """What judging needs of the folded log; a Projection has it."""

    def named(self, kind: str, id: str) -> Named | None: ...


def objection(principal: Principal, command: Command) -> Mistake | None:
    """Why `principal` may not give `command`; None when it may."""
    if principal.role == "operator":
        return None
    if principal.role == "viewer":
        return Mistake("", "the role viewer may only read", "Ask for a token with another role.")
    if not isinstance(command, TenantCommand) or command.id != principal.tenant:
        return Mistake("", f"this token is for tenant {principal.tenant} only")
    if isinstance(command, PutUser | RemoveUser):
        return None
    allowed = " and ".join(sorted(TENANT_ADMIN_MAY))
    if isinstance(command, ChangeTenant) and not command.force:
        beyond = sorted(set(command.patch) - TENANT_ADMIN_MAY)
        if not beyond:
            return None
        text = f"the role tenant-admin may not change {', '.join(beyond)}"
        return Mistake(beyond[0], text, f"It may change {allowed}.")
    text = f"the role tenant-admin may only change {allowed}"
    return Mistake("", text, "Ask an operator.")


def bounded(principal: Principal, known: Known) -> Principal | None:
    """`principal` with no more than its operator has; None when that one is shut out or deleted.

    A name that the log never heard of keeps what its token says: whoever signed it may sign.
    """
    found = known.named(KIND_OPERATOR, principal.name)
    if found is None:
        return principal
    if found.deleted or found.settings.get("disabled"):
        return None
    if found.settings.get("role") == "viewer" and principal.role != "viewer":
        return Principal(
            principal.name, "viewer", principal.tenant, principal.jti, principal.address
        )
    return principal
