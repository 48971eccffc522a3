"""The facts that the log holds. What is written here can be read for ever.

    Fact
    ├── TenantCreated        settings: what was set, nothing resolved
    ├── TenantChanged        changes: a patch, None puts a key back to its default
    ├── TenantDisabled
    ├── TenantEnabled
    ├── TenantDeleted        the id is burnt: it never names another tenant
    ├── TenantProvisioned    role and sealed secret that were made in PostgreSQL
    ├── InstallationChanged  settings: the whole installation, secrets sealed
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


class TenantProvisioned(Fact):
    TYPE = "TenantProvisioned"
    role: str
    secret: str
    node: str = ""
    fingerprint: str = ""


class InstallationChanged(Fact):
    TYPE = "InstallationChanged"
    settings: Settings


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
