"""What is configured besides tenants: addresses, nodes, pool budget, identification, TLS, events."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from events.model import Count, Duration, Mode, Model, Settings, Size, parse_unlimited

SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
IdentifyMethod = Literal["username_prefix", "database_name", "startup_option"]


class Node(Model):
    """A PostgreSQL server. `user` provisions tenants (CREATEROLE, CREATEDB or superuser)."""

    name: str = ""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 5432
    role: Literal["primary", "standby", "replica"] = "primary"
    weight: Annotated[int, Field(ge=0)] = 100
    enabled: bool = True
    user: str = "postgres"
    password: str = ""
    sslmode: SslMode = "prefer"
    sslrootcert: str = ""
    embedded: bool = False


class Pool(Model):
    """The budget of server connections that tenants without a dedicated pool share, per node."""

    min_connections: Annotated[int, Field(ge=0)] = 0
    max_connections: Annotated[int, Field(ge=1)] = 100
    idle_timeout_secs: Duration = 300.0
    max_lifetime_secs: Duration = 1800.0
    acquire_timeout_secs: Duration = 10.0
    test_on_acquire: bool = False


class PoolMode(Model):
    """When a server goes back to the pool, unless the tenant says otherwise."""

    mode: Mode = "transaction"
    max_prepared_statements: Annotated[int, Field(ge=1)] = 200


class Tls(Model):
    """TLS to clients."""

    enabled: bool = False
    cert_path: str = ""
    key_path: str = ""
    ca_path: str = ""
    require: bool = False
    require_client_cert: bool = False


class Auth(Model):
    """How clients prove who they are."""

    mode: Literal["scram"] = "scram"
    timeout_secs: Duration = 30.0


class Events(Model):
    """Where the log lives."""

    embedded: bool = False
    servers: tuple[str, ...] = ()
    replicas: Annotated[int, Field(ge=1, le=5)] = 1
    data_dir: str = ""
    usage_interval_secs: Annotated[float, Field(gt=0)] = 10.0
    max_staleness_secs: Duration = None


class Identification(Model):
    """Methods are tried in order; the first that names a tenant decides; then `fallback`."""

    methods: tuple[IdentifyMethod, ...] = ("username_prefix", "database_name", "startup_option")
    separator: Annotated[str, Field(min_length=1, max_length=1)] = "."
    database_suffix: str = "_db"
    option: str = "tenantry.tenant"
    fallback: str | None = None


class Limits(Model):
    """Process-wide bounds; each protects the proxy itself rather than one tenant."""

    max_clients: Count = 20_000
    max_startup_bytes: Size = 10_000
    max_message_bytes: Annotated[Size, BeforeValidator(parse_unlimited)] = 1024**3


class Installation(Model):
    """Everything but the tenants, resolved."""

    listen_address: str = "127.0.0.1:6432"
    admin_address: str = "127.0.0.1:9090"
    nodes: tuple[Node, ...] = ()
    pool: Pool = Pool()
    pool_mode: PoolMode = PoolMode()
    tls: Tls = Tls()
    auth: Auth = Auth()
    events: Events = Events()
    identification: Identification = Identification()
    limits: Limits = Limits()
    defaults: Settings = {}
    max_tenants: Count = None
