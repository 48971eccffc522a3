"""The shape of the native configuration file: the models of `events` as the file arranges them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from events.installation import Identification, IdentifyMethod, Sections
from events.model import (
    VERIFIER,
    Ai,
    Count,
    Duration,
    Feature,
    FeatureName,
    Isolation,
    Model,
    Permissions,
    PoolSettings,
    RateLimits,
    TenantId,
    TierName,
)


class FileUser(Model):
    """A login name with its password, or with the verifier of one."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Login name, without the tenant's prefix."""
    password: Annotated[Annotated[str, Field(min_length=1)] | None, Field(repr=False)] = None
    """Becomes a verifier at once; the password itself is stored nowhere."""
    scram: Annotated[Annotated[str, Field(pattern=VERIFIER)] | None, Field(repr=False)] = None
    """SCRAM-SHA-256 verifier, as PostgreSQL stores it in `pg_authid`, instead of the password."""


class FileTier(Model):
    """What the tenants of one tier get that do not set it themselves."""

    pool: PoolSettings = PoolSettings()
    rate_limits: RateLimits = RateLimits()
    permissions: Permissions = Permissions()
    features: dict[FeatureName, Feature] = Field(default_factory=dict)
    """Switches, numbers and texts by name, for the tenant's applications. Not interpreted."""
    ai: Ai = Ai()


class FileDefaults(FileTier):
    """Settings of tenants that do not set them, and whose tier does not."""

    isolation: Isolation = Isolation()


class FileTenant(FileDefaults):
    """A tenant. What is left out comes from `[multi_tenancy.default]`, then from the list here."""

    id: TenantId
    """1 to 63 of a-z, 0-9, `_` and `-`; never used again after deletion."""
    name: str = ""
    """For people."""
    enabled: bool = True
    """A disabled tenant looks like one that does not exist."""
    tier: TierName | None = None
    """Tier whose settings count where the tenant sets none: a `[multi_tenancy.tiers.<name>]`."""
    users: tuple[FileUser, ...] = ()
    """Who may log in."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """Own notes, text to text. Not interpreted."""


class FileIdentification(Identification):
    """How a client says which tenant it is. Methods are tried in order, then `fallback`."""

    method: IdentifyMethod | None = None
    """Short for `methods` with one entry."""


class FileMultiTenancy(Model):
    """The tenants and what is common to them."""

    enabled: bool = True
    """Tenants are always kept apart; only `true` is accepted."""
    allow_unknown_tenants: bool = False
    """Unknown tenants are refused; only `false` is accepted."""
    auto_create_tenants: bool = False
    """Tenants are created by configuration only; only `false` is accepted."""
    max_tenants: Count = None
    """Most tenants in this file."""
    cross_tenant_analytics: bool = False
    """Statistics over all tenants for operators."""
    deletion_retention: Duration = 30 * 86400.0
    """A deleted tenant can be restored for this long; then its personal data is erased."""
    identification: FileIdentification = FileIdentification()
    tiers: dict[TierName, FileTier] = Field(default_factory=dict)
    default: FileDefaults = FileDefaults()
    tenants: tuple[FileTenant, ...] = ()


class FileConfig(Sections):
    """The whole file."""

    multi_tenancy: FileMultiTenancy = FileMultiTenancy()
