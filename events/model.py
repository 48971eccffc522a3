"""What is configured: the tenant, the installation, and the commands and events that change them.

Stored facts carry only what somebody set ("settings", a nested dict); `Tenant` is the resolved
view: built-in values < the installation's defaults < the tenant's own settings.
Units: durations are seconds (float), sizes are bytes (int), `None` means unlimited.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

TENANT_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(B|kB|KB|KiB|MB|MiB|GB|GiB|TB|TiB)?\s*")
# As in PostgreSQL and in the source documents (100MB = 104857600) the multiplier is 1024.
_SIZE_UNITS = {None: 1, "B": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_DURATION = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|min|h|d)?\s*")
_DURATION_UNITS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_UNLIMITED = {"unlimited", "infinity", "none"}


def parse_size(value: object) -> object:
    """'100MB', '64KiB' or a plain number of bytes; 'unlimited' is None. Raises ValueError."""
    if isinstance(value, str):
        if value.strip().lower() in _UNLIMITED:
            return None
        found = _SIZE.fullmatch(value)
        if found is None:
            raise ValueError(f'"{value}" is not a size; write e.g. "100MB", 104857600 or "unlimited"')
        unit = found[2]
        return int(float(found[1]) * _SIZE_UNITS[unit[0].upper() if unit and unit != "B" else unit])
    return value


def parse_duration(value: object) -> object:
    """'30s', '5m', '500ms' or plain seconds; 'unlimited' is None. Raises ValueError."""
    if isinstance(value, str):
        if value.strip().lower() in _UNLIMITED:
            return None
        found = _DURATION.fullmatch(value)
        if found is None:
            raise ValueError(f'"{value}" is not a duration; write e.g. "30s", 30 or "unlimited"')
        return float(found[1]) * _DURATION_UNITS[found[2]]
    return value


def parse_unlimited(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() in _UNLIMITED else value


def check_tenant_id(value: str) -> str:
    if TENANT_ID.fullmatch(value) is None:
        raise ValueError(
            f'"{value}" is not a tenant id; use 1 to 63 of a-z, 0-9, "_" and "-", '
            "starting with a letter or digit"
        )
    return value


Size = Annotated[int | None, BeforeValidator(parse_size), Field(ge=0)]
Duration = Annotated[float | None, BeforeValidator(parse_duration), Field(ge=0)]
Count = Annotated[int | None, BeforeValidator(parse_unlimited), Field(ge=0)]
Rate = Annotated[float | None, BeforeValidator(parse_unlimited), Field(ge=0)]
TenantId = Annotated[str, AfterValidator(check_tenant_id)]
Mode = Literal["transaction", "session"]


class Model(BaseModel):
    """Strict about names: a key nobody reads is a mistake, not a comment."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Isolation(Model):
    """Where the tenant's data lives. Names left out are derived from the id."""

    strategy: Literal["database", "schema", "row", "branch"] = "schema"
    database_name: str | None = None
    schema_name: str | None = None
    tenant_column: str = "tenant_id"
    branch_name: str | None = None


class PoolSettings(Model):
    """The tenant's server connections."""

    max_connections: Annotated[int, Field(ge=1)] = 10
    min_idle: Annotated[int, Field(ge=0)] = 1
    dedicated_pool: bool = False
    mode: Mode | None = None
    idle_timeout: Duration = 600.0
    max_lifetime: Duration = 3600.0
    acquire_timeout: Duration = 5.0


class RateLimits(Model):
    """What the tenant may use at most."""

    qps_limit: Rate = 100.0
    burst_multiplier: Annotated[float, Field(ge=1.0)] = 2.0
    max_connections: Count = 10
    max_concurrent_queries: Count = None
    max_query_duration: Duration = 60.0
    max_transaction_duration: Duration = None
    max_idle_in_transaction: Duration = 300.0
    max_pinned_servers: Count = 5
    max_statement_size: Size = 1024 * 1024
    max_result_size: Size = 100 * 1024 * 1024
    max_rows_per_query: Count = 100_000


class Permissions(Model):
    """What the tenant's statements may do."""

    allowed_operations: tuple[str, ...] = ("SELECT", "INSERT", "UPDATE", "DELETE")
    blocked_tables: tuple[str, ...] = ()
    read_only: bool = False
    allow_ddl: bool = False
    allow_explain: bool = True
    allow_system_access: bool = False
    max_tables_per_query: Count = 10
    allowed_addresses: tuple[str, ...] = ()


class User(Model):
    """One login name of the tenant. `scram` is a verifier as PostgreSQL stores it (RFC 5803 shape):
    SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>, base64 parts."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    scram: Annotated[str, Field(pattern=r"^SCRAM-SHA-256\$\d+:[^$]+\$[^:]+:.+$")]


class Provisioned(Model):
    """What provisioning made for the tenant. `secret` is sealed (see events.secrets)."""

    role: str
    secret: str
    node: str = ""
    fingerprint: str = ""


class Tenant(Model):
    """A tenant with every value resolved; the shape all readers of the configuration use."""

    id: TenantId
    name: str = ""
    enabled: bool = True
    isolation: Isolation = Isolation()
    pool: PoolSettings = PoolSettings()
    rate_limits: RateLimits = RateLimits()
    permissions: Permissions = Permissions()
    users: tuple[User, ...] = ()
    metadata: dict[str, str] = {}
    provisioned: Provisioned | None = None
    version: int = 0

    @property
    def database(self) -> str:
        """The database that the tenant's servers connect to."""
        iso = self.isolation
        if iso.strategy == "branch":
            return iso.branch_name or f"tenant_{self.id}"
        if iso.database_name:
            return iso.database_name
        return f"{self.id}_db" if iso.strategy == "database" else "shared_db"

    @property
    def schema_name(self) -> str:
        """The tenant's schema (strategy `schema` only)."""
        return self.isolation.schema_name or self.id

    @property
    def client_limit(self) -> int | None:
        """Client connections allowed: min(pool, rate_limits), as the source documents settle."""
        return self.rate_limits.max_connections


Settings = dict[str, Any]
