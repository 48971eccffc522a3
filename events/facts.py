"""The facts that the log holds. What is written here can be read for ever.

    Fact
    ├── TenantCreated        settings: what was set, nothing resolved
    ├── TenantChanged        changes: a patch, None puts a key back to its default
    ├── TenantDisabled
    ├── TenantEnabled
    ├── TenantDeleted        the id is burnt: it never names another tenant
    ├── TenantRestored       deleted by mistake: it is there again, as it was
    ├── TenantPurged         its personal data is gone; it cannot be restored any more
    ├── TenantProvisioned    role and sealed secret that were made in PostgreSQL
    ├── InstallationChanged  settings: the whole installation, secrets sealed
    ├── TierSet              settings: all that the tier sets
    ├── TierDeleted
    ├── OperatorSet          role, whether the operator is shut out, and how it logs in over SQL
    ├── OperatorDeleted
    ├── TokenIssued          who got a command token for what and until when; never the token
    ├── TokenRevoked         the token counts no more
    └── Undecodable          never written: stands for what this version cannot read

Rules for changing them: a new optional field needs nothing (older readers ignore it). Anything
else needs a new VERSION and an upcaster in events.codec, and the golden file of the old version
stays. A fact that an older reader must not ignore needs a new TYPE or VERSION, because those park.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from events.model import Settings

KIND_TENANT = "tenant"
KIND_INSTALLATION = "installation"
KIND_TIER = "tier"
KIND_OPERATOR = "operator"
KIND_TOKEN = "token"  # noqa: S105 - a kind of subject
# One log holds one installation, so its subject needs no telling name.
INSTALLATION_ID = "main"


class Fact(BaseModel):
    """Something that was accepted. TYPE and VERSION are stored beside the fields."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    TYPE: ClassVar[str] = ""
    VERSION: ClassVar[int] = 1


class TenantCreated(Fact):
    TYPE = "TenantCreated"
    settings: Settings


class TenantChanged(Fact):
    TYPE = "TenantChanged"
    changes: Settings


class TenantDisabled(Fact):
    TYPE = "TenantDisabled"


class TenantEnabled(Fact):
    TYPE = "TenantEnabled"


class TenantDeleted(Fact):
    TYPE = "TenantDeleted"


class TenantRestored(Fact):
    TYPE = "TenantRestored"


class TenantPurged(Fact):
    TYPE = "TenantPurged"


class TenantProvisioned(Fact):
    TYPE = "TenantProvisioned"
    role: str
    secret: str
    node: str = ""
    fingerprint: str = ""


class InstallationChanged(Fact):
    TYPE = "InstallationChanged"
    settings: Settings


class TierSet(Fact):
    TYPE = "TierSet"
    settings: Settings


class TierDeleted(Fact):
    TYPE = "TierDeleted"


class OperatorSet(Fact):
    TYPE = "OperatorSet"
    role: str
    disabled: bool = False
    scram: str = ""
    """The verifier of its SQL password; "": it has none."""
    tenants: tuple[str, ...] = ()
    """The tenants whose data it may work in over SQL; "*" is all."""


class OperatorDeleted(Fact):
    TYPE = "OperatorDeleted"


class TokenIssued(Fact):
    """Times are Unix seconds; `name` is whom the token speaks for, `tenant` is set for the role
    tenant-admin only."""

    TYPE = "TokenIssued"
    name: str
    role: str
    tenant: str = ""
    issued_at: int
    expires_at: int


class TokenRevoked(Fact):
    """`expires_at` (Unix seconds): from then on the revocation need not be known any more."""

    TYPE = "TokenRevoked"
    expires_at: int


class Undecodable(Fact):
    """In the place of a fact that cannot be read; the projection parks its subject."""

    TYPE = "Undecodable"
    reason: str


FACTS: tuple[type[Fact], ...] = (
    TenantCreated,
    TenantChanged,
    TenantDisabled,
    TenantEnabled,
    TenantDeleted,
    TenantProvisioned,
    InstallationChanged,
    TenantRestored,
    TenantPurged,
    TierSet,
    TierDeleted,
    OperatorSet,
    OperatorDeleted,
    TokenIssued,
    TokenRevoked,
)


@dataclass(frozen=True, slots=True)
class Commit:
    """One stored message: all facts that one command led to, or none of them.

    `id` is the command's id, `time` is UTC in ISO 8601, `version` is that of this envelope.
    """

    id: str
    actor: str
    time: str
    events: tuple[Fact, ...]
    version: int = 1
