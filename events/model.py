"""What is configured: the tenant, the installation, and the commands and events that change them.

Stored facts carry only what somebody set ("settings", a nested dict); `Tenant` is the resolved
view: built-in values < the installation's defaults < the tenant's own settings.
Units: durations are seconds (float), sizes are bytes (int), `None` means unlimited.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

VERIFIER: Final = r"^SCRAM-SHA-256\$\d+:[^$]+\$[^:]+:.+$"
TENANT_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(B|kB|KB|KiB|MB|MiB|GB|GiB|TB|TiB)?\s*")
# As in PostgreSQL and in the source documents (100MB = 104857600) the multiplier is 1024.
_SIZE_UNITS = {None: 1, "B": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_DURATION = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|min|h|d)?\s*")
_DURATION_UNITS = {
    None: 1.0,
    "ms": 0.001,
    "s": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_UNLIMITED = {"unlimited", "infinity", "none"}

DDL_OPERATIONS: Final = frozenset(
    {"CREATE", "ALTER", "DROP", "COMMENT", "GRANT", "REVOKE", "REINDEX", "CLUSTER", "REFRESH"}
)
"""Statements that change definitions: each can be allowed by name, all at once by `allow_ddl`."""

OPERATIONS: Final = DDL_OPERATIONS | {
    "SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "COPY", "CALL", "DO", "EXECUTE",
    "LISTEN", "NOTIFY", "LOCK", "ANALYZE", "VACUUM",
}  # fmt: skip
"""Every name that `allowed_operations` may hold. What only steers the session (BEGIN, SET, SHOW,
PREPARE, FETCH …) is no operation: it is always allowed, or refused for everybody."""

# One part of a table name: plain, or in double quotes with "" for a quote, as in SQL.
_NAME_PART = r'(?:[A-Za-z_][A-Za-z0-9_$]*|"(?:[^"\0]|"")+")'
_TABLE = re.compile(rf"{_NAME_PART}(?:\.{_NAME_PART})?")


def parse_unlimited(value: object) -> object:
    """'unlimited' (or an infinite number, as TOML can write it) is None."""
    if isinstance(value, str):
        return None if value.strip().lower() in _UNLIMITED else value
    return None if isinstance(value, float) and value == math.inf else value


def parse_size(value: object) -> object:
    """'100MB', '64KiB' or a plain number of bytes; 'unlimited' is None. Raises ValueError."""
    value = parse_unlimited(value)
    if isinstance(value, str):
        found = _SIZE.fullmatch(value)
        if found is None:
            raise ValueError(
                f'"{value}" is not a size; write e.g. "100MB", 104857600 or "unlimited"'
            )
        unit = found[2]
        return int(float(found[1]) * _SIZE_UNITS[unit[0].upper() if unit and unit != "B" else unit])
    return value


def parse_duration(value: object) -> object:
    """'30s', '5m', '500ms' or plain seconds; 'unlimited' is None. Raises ValueError."""
    value = parse_unlimited(value)
    if isinstance(value, str):
        found = _DURATION.fullmatch(value)
        if found is None:
            raise ValueError(f'"{value}" is not a duration; write e.g. "30s", 30 or "unlimited"')
        return float(found[1]) * _DURATION_UNITS[found[2]]
    return value


def check_tenant_id(value: str) -> str:
    if TENANT_ID.fullmatch(value) is None:
        raise ValueError(
            f'"{value}" is not a tenant id; use 1 to 63 of a-z, 0-9, "_" and "-", '
            "starting with a letter or digit"
        )
    return value


def check_operation(value: str) -> str:
    """The operation in capitals. Raises ValueError for what is none."""
    name = value.strip().upper()
    if name not in OPERATIONS:
        near = difflib.get_close_matches(name, OPERATIONS, 1)
        guess = f'did you mean "{near[0]}"? Or ' if near else ""
        raise ValueError(
            f'"{value}" is not an operation; {guess}use any of {", ".join(sorted(OPERATIONS))}'
        )
    return name


def check_table(value: str) -> str:
    """`table` or `schema.table`, in SQL's own quoting. Raises ValueError."""
    if _TABLE.fullmatch(value) is None:
        raise ValueError(
            f'"{value}" is not a table name; write table or schema.table, '
            "with double quotes around a part as in SQL when it has other characters"
        )
    return value


def check_network(value: str) -> str:
    """An address or CIDR range in its usual form. Raises ValueError."""
    try:
        return str(ipaddress.ip_network(value.strip()))
    except ValueError as error:
        raise ValueError(
            f'"{value}" is not an address range ({error}); write e.g. "10.0.0.0/8" or "::1"'
        ) from None


# The bound stands inside: on the optional it would be asked of None as well.
Size = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(parse_size)]
Duration = Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(parse_duration)]
Count = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(parse_unlimited)]
Rate = Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(parse_unlimited)]
TenantId = Annotated[str, AfterValidator(check_tenant_id)]
Operation = Annotated[str, AfterValidator(check_operation)]
TableName = Annotated[str, AfterValidator(check_table)]
SettingName = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*$", max_length=63)]
Network = Annotated[str, AfterValidator(check_network)]
Mode = Literal["transaction", "session"]
TierName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
FeatureName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
Feature = bool | int | float | str


class Model(BaseModel):
    """Strict about names: a key nobody reads is a mistake, not a comment."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Isolation(Model):
    """Where the tenant's data lives. Names left out are derived from the id."""

    strategy: Literal["database", "schema", "row", "branch"] = "schema"
    """`database`: its own database. `schema`: its own schema in a shared one. `row`: its own rows
    in shared tables. `branch`: a clone of a database."""
    database_name: str | None = None
    """Database of the tenant. Left out: `<id>_db` for `database`, else `shared_db`."""
    schema_name: str | None = None
    """Schema of the tenant (`schema`; left out: the id), or of the shared tables (`row`; left out:
    `public`)."""
    tenant_column: str = "tenant_id"
    """Column of the shared tables that names the tenant (strategy `row`)."""
    tenant_value: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """What the tenant column holds for this tenant, as text (strategy `row`). Left out: the id.
    No two tenants of a database may have the same."""
    enforcement: Literal["both", "rewrite", "seal"] = "both"
    """Who keeps a `row` tenant to its rows: `seal` PostgreSQL (forced row-level security),
    `rewrite` the proxy (for servers that may not be altered), `both`."""
    shared_tables: tuple[TableName, ...] = ()
    """Tables without the tenant column that every `row` tenant of the database may read."""
    allowed_functions: tuple[TableName, ...] = ()
    """Functions of the operator's that `row` tenants may call besides PostgreSQL's own."""
    setting_names: tuple[SettingName, ...] = ()
    """Settings (`app.tenant_id` …) that existing policies read: they always hold the tenant's
    value, and clients may not change them (strategy `row`)."""
    branch_name: str | None = None
    """Database cloned for the tenant (strategy `branch`). Left out: `tenant_<id>`."""
    branch_base: str | None = None
    """Database that a branch is cloned from (strategy `branch`)."""


class PoolSettings(Model):
    """The tenant's server connections."""

    max_connections: Annotated[int, Field(ge=1)] = 10
    """PostgreSQL connections that the tenant may have at once."""
    min_idle: Annotated[int, Field(ge=0)] = 1
    """Connections kept open while the tenant is active."""
    dedicated_pool: bool = False
    """Own connections, outside of the shared budget of `[pool]`."""
    mode: Mode | None = None
    """When a connection goes back to the pool. Left out: as `[pool_mode] mode`."""
    idle_timeout: Duration = 600.0
    """An idle connection is closed after this time."""
    max_lifetime: Duration = 3600.0
    """A connection is replaced when it is this old."""
    acquire_timeout: Duration = 5.0
    """A client waits this long for a connection, then gets an error."""


class RateLimits(Model):
    """What the tenant may use at most."""

    qps_limit: Rate = 100.0
    """Statements per second. Over it: an error, no queue."""
    burst_multiplier: Annotated[float, Field(ge=1.0)] = 2.0
    """Short bursts may reach `qps_limit` times this."""
    max_connections: Count = 10
    """Client connections at once."""
    max_concurrent_queries: Count = None
    """Statements running at once."""
    max_query_duration: Duration = 60.0
    """A statement that runs longer is cancelled."""
    max_transaction_duration: Duration = None
    """A transaction that lasts longer ends the connection."""
    max_idle_in_transaction: Duration = 300.0
    """A client that leaves a transaction open and says nothing is disconnected."""
    max_pinned_servers: Count = 5
    """Connections that session state (temporary tables, LISTEN …) may hold at once."""
    max_statement_size: Size = 1024 * 1024
    """Longest SQL text."""
    max_result_size: Size = 100 * 1024 * 1024
    """Largest result of one statement; over it the statement fails."""
    max_rows_per_query: Count = 100_000
    """Most rows of one result; over it the statement fails."""

    @field_validator("*")
    @classmethod
    def _not_zero(cls, value: float | None) -> float | None:
        """Elsewhere 0 often means "no limit", here it would mean "nothing": neither is guessed."""
        if value == 0:
            raise ValueError('0 would allow nothing; write "unlimited" for no limit')
        return value


class Permissions(Model):
    """What the tenant's statements may do."""

    allowed_operations: tuple[Operation, ...] = ("SELECT", "INSERT", "UPDATE", "DELETE")
    """Kinds of statements the tenant may run."""
    blocked_tables: tuple[TableName, ...] = ()
    """Tables the tenant may not touch: `table` or `schema.table`."""
    read_only: bool = False
    """Nothing may be changed, whatever the allowed operations."""
    allow_ddl: bool = False
    """CREATE, ALTER, DROP and their like, in the tenant's own schema or database."""
    allow_explain: bool = True
    """EXPLAIN; EXPLAIN ANALYZE also needs the permission for what it runs."""
    allow_system_access: bool = False
    """Server administration views and functions."""
    max_tables_per_query: Count = 10
    """Most tables that one statement may name."""
    allowed_addresses: tuple[Network, ...] = ()
    """Addresses (CIDR) clients may come from. Empty: all."""


class Ai(Model):
    """The tenant's AI settings. Stored for the AI plane; not used in this version."""

    knowledge_base: str | None = None
    """Knowledge base that retrieval reads. Left out: none."""
    embedding_model: str | None = None
    """Model that makes embeddings. Left out: the installation's."""
    retrieval_limit: Count = 10
    """Most passages one question may retrieve."""
    daily_token_budget: Count = None
    """Tokens the tenant may use a day."""
    agent_workspace_enabled: bool = False
    """Whether agents keep a workspace of their own."""
    max_concurrent_agents: Count = None
    """Agents at work at once."""


class User(Model):
    """One login name of the tenant. `scram` is a verifier as PostgreSQL stores it (RFC 5803 shape):
    SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>, base64 parts."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Login name, without the tenant's prefix."""
    scram: Annotated[str, Field(pattern=VERIFIER)]
    """SCRAM-SHA-256 verifier as PostgreSQL stores it in `pg_authid`."""


class Provisioned(Model):
    """What provisioning made for the tenant. `secret` is sealed (see events.secrets)."""

    role: str
    secret: str
    node: str = ""
    fingerprint: str = ""


class Tenant(Model):
    """A tenant with every value resolved; the shape all readers of the configuration use."""

    id: TenantId
    """1 to 63 of a-z, 0-9, `_` and `-`; never used again after deletion."""
    name: str = ""
    """For people."""
    enabled: bool = True
    """A disabled tenant looks like one that does not exist."""
    isolation: Isolation = Isolation()
    pool: PoolSettings = PoolSettings()
    rate_limits: RateLimits = RateLimits()
    permissions: Permissions = Permissions()
    users: tuple[User, ...] = ()
    metadata: dict[str, str] = {}
    """Own notes, text to text. Not interpreted."""
    tier: TierName | None = None
    """Tier whose settings count where the tenant sets none."""
    features: dict[FeatureName, Feature] = {}
    """Switches, numbers and texts by name, for the tenant's applications. Not interpreted."""
    ai: Ai = Ai()
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
    def row_value(self) -> str:
        """What the tenant column holds for this tenant, as text (strategy `row` only)."""
        return self.isolation.tenant_value or self.id

    @property
    def row_schema(self) -> str:
        """The schema of the shared tables (strategy `row` only)."""
        return self.isolation.schema_name or "public"

    @property
    def client_limit(self) -> int | None:
        """Client connections allowed: min(pool, rate_limits), as the source documents settle."""
        return self.rate_limits.max_connections


Settings = dict[str, Any]
