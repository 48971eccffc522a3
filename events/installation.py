"""What is configured besides tenants: addresses, nodes, pool budget, identification, TLS, log."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from events.model import Count, Duration, Mode, Model, Settings, Size

SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
IdentifyMethod = Literal["username_prefix", "database_name", "startup_option"]
ReadStrategy = Literal[
    "round_robin", "weighted_round_robin", "least_connections", "latency_based", "random"
]


def check_address(value: str) -> str:
    """`host:port`, an IPv6 host in brackets. Raises ValueError."""
    host, colon, port = value.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not colon or not bare or (":" in bare and bare == host):
        raise ValueError(f'"{value}" is not an address; write e.g. "127.0.0.1:6432"')
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f'"{value}" has no port between 0 and 65535; write e.g. "127.0.0.1:6432"')
    return value


OFF: Final = "off"


def check_admin_address(value: str) -> str:
    """As check_address, or "off". Raises ValueError."""
    return OFF if value.strip().lower() == OFF else check_address(value)


Address = Annotated[str, AfterValidator(check_address)]
AdminAddress = Annotated[str, AfterValidator(check_admin_address)]


class Node(Model):
    """A PostgreSQL server. `user` provisions tenants (CREATEROLE, CREATEDB or superuser)."""

    name: str = ""
    """For people and logs."""
    host: str = "127.0.0.1"
    """Host name or address."""
    port: Annotated[int, Field(ge=1, le=65535)] = 5432
    """TCP port."""
    role: Literal["primary", "standby", "replica"] = "primary"
    """Exactly one node is the primary. Standbys get no queries in this version."""
    weight: Annotated[int, Field(ge=0)] = 100
    """Share of the reads."""
    enabled: bool = True
    """A disabled node is not used."""
    user: str = "postgres"
    """Role that provisions tenants: superuser, or CREATEROLE and CREATEDB."""
    password: Annotated[str, Field(repr=False)] = ""
    """Password of that role. Sealed before it is stored."""
    sslmode: SslMode = "prefer"
    """TLS to the node, as in libpq."""
    sslrootcert: str = ""
    """File with the authorities that may sign the node's certificate."""
    embedded: bool = False
    """Start and use the built-in PostgreSQL; host and port are then chosen by Tenantry."""


class Pool(Model):
    """The budget of server connections that tenants without a dedicated pool share, per node."""

    min_connections: Annotated[int, Field(ge=0)] = 0
    """Connections kept open."""
    max_connections: Annotated[int, Field(ge=1)] = 100
    """Connections in the budget."""
    idle_timeout_secs: Duration = 300.0
    """An idle connection is closed after this time."""
    max_lifetime_secs: Duration = 1800.0
    """A connection is replaced when it is this old."""
    acquire_timeout_secs: Duration = 10.0
    """A client waits this long for a connection, then gets an error."""
    test_on_acquire: bool = False
    """Ask an idle connection whether it lives before a client gets it."""


class PoolMode(Model):
    """When a server goes back to the pool, unless the tenant says otherwise."""

    mode: Mode = "transaction"
    """`transaction`: after each transaction. `session`: when the client leaves."""
    max_prepared_statements: Annotated[int, Field(ge=1)] = 200
    """Prepared statements kept per connection."""
    max_pool_size: Annotated[int, Field(ge=1)] | None = None
    """As `[pool] max_connections`."""
    min_idle: Annotated[int, Field(ge=0)] | None = None
    """As `[pool] min_connections`."""
    idle_timeout_secs: Duration = None
    """As in `[pool]`."""
    max_lifetime_secs: Duration = None
    """As in `[pool]`."""
    acquire_timeout_secs: Duration = None
    """As in `[pool]`."""
    reset_query: str = "DISCARD ALL"
    """Tenantry chooses the reset itself: it knows what `DISCARD ALL` leaves behind."""
    prepared_statement_mode: Literal["disable", "track", "named"] = "track"
    """Prepared statements are always tracked."""


class LoadBalancer(Model):
    """How reads are spread over several nodes. Not used in this version."""

    read_strategy: ReadStrategy = "round_robin"
    """How reads are spread over nodes."""
    read_write_split: bool = False
    """Send reads to standbys."""
    latency_threshold_ms: Annotated[float, Field(ge=0)] = 100.0
    """Nodes slower than this, in milliseconds, are left out."""


class Health(Model):
    """How nodes are checked. Not used in this version: a node that fails is found by its use."""

    check_interval_secs: Duration = 5.0
    """Time between two checks."""
    check_timeout_secs: Duration = 3.0
    """A check that takes longer has failed."""
    failure_threshold: Annotated[int, Field(ge=1)] = 3
    """Failures in a row that make a node unusable."""
    success_threshold: Annotated[int, Field(ge=1)] = 2
    """Successes in a row that make it usable again."""
    check_query: str = "SELECT 1"
    """Statement that a healthy node answers."""


class Tls(Model):
    """TLS to clients."""

    enabled: bool = False
    """Offer TLS to clients."""
    cert_path: str = ""
    """Certificate chain, PEM."""
    key_path: str = ""
    """Private key, PEM."""
    ca_path: str = ""
    """Authorities that sign client certificates, PEM."""
    require: bool = False
    """Refuse clients without TLS."""
    require_client_cert: bool = False
    """Refuse clients without a certificate from `ca_path`."""


class Auth(Model):
    """How clients prove who they are."""

    mode: Literal["scram"] = "scram"
    """SCRAM-SHA-256 with the verifiers of the tenant's users."""
    timeout_secs: Duration = 30.0
    """A client that has not logged in by then is disconnected."""


class Events(Model):
    """Where the log lives."""

    embedded: bool = False
    """Start and use the built-in NATS server. Taken when `servers` is left out."""
    servers: tuple[str, ...] = ()
    """Addresses of a NATS cluster with JetStream: `nats://host:4222`."""
    replicas: Annotated[int, Field(ge=1, le=5)] = 1
    """Copies of each stream; 3 in production."""
    ca_path: str = ""
    """Authorities that sign the NATS servers' certificates, PEM. Left out: the system's."""
    cert_path: str = ""
    """Certificate to show to the NATS servers, PEM."""
    key_path: str = ""
    """Its private key, PEM."""
    credentials_path: str = ""
    """Credentials file (JWT and seed) to log in to NATS with."""
    nkey_path: str = ""
    """File with the seed of an nkey to log in to NATS with. A user and password stand in the
    address: `nats://user:password@host:4222`."""
    data_dir: str = ""
    """Where the built-in server keeps its files. Left out: in the data directory."""
    usage_interval_secs: Annotated[float, Field(gt=0)] = 10.0
    """Usage is published this often, in seconds."""
    max_staleness_secs: Duration = None
    """Refuse clients when the configuration was last known to be current longer ago than this."""


class Prices(Model):
    """What usage costs, in a currency of the operator's. Only reports use it."""

    currency: str = ""
    """Shown beside amounts."""
    per_query: Annotated[float, Field(ge=0)] = 1e-6
    """One statement."""
    per_1000_rows: Annotated[float, Field(ge=0)] = 1e-5
    """A thousand rows, read or written."""
    per_mb_read: Annotated[float, Field(ge=0)] = 1e-5
    """1,000,000 bytes sent to the tenant's clients."""
    per_mb_written: Annotated[float, Field(ge=0)] = 1e-4
    """1,000,000 bytes received from the tenant's clients."""
    per_connection_second: Annotated[float, Field(ge=0)] = 0.0
    """One client connected for one second."""
    per_compute_second: Annotated[float, Field(ge=0)] = 0.0
    """One second of a PostgreSQL connection at work."""


class Analytics(Model):
    """Statistics of what tenants use."""

    enabled: bool = True
    """Keep statistics in the control process. Usage is stored in any case."""
    slow_query_ms: Annotated[float, Field(gt=0)] = 1000.0
    """A statement that takes at least this many milliseconds counts as slow."""
    detailed_tenants: Annotated[int, Field(ge=1, le=5000)] = 200
    """So many of the busiest tenants have a history by minute, hour and day; about 250 kB each."""
    prices: Prices = Prices()


class Audit(Model):
    """The record of who did what."""

    keep_days: Annotated[float, Field(ge=1)] = 400.0
    """Older events expire. Counts when the stream is made."""
    max_size: Size = 1024**3
    """Disk that NATS reserves for it; when it is full, the oldest events go first. Counts when the
    stream is made."""


class Telemetry(Model):
    """Traces and metrics for other systems."""

    endpoint: str = ""
    """OTLP over HTTP: traces go to `<endpoint>/v1/traces`, metrics to `<endpoint>/v1/metrics`. Left
    out: as OTEL_EXPORTER_OTLP_ENDPOINT says, else nothing is sent. Headers, which may be secret,
    come from OTEL_EXPORTER_OTLP_HEADERS."""
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the statements that get a span, beside those whose comment says they are part of a
    sampled trace."""
    metrics_interval_secs: Annotated[float, Field(gt=0)] = 15.0
    """Metrics are sent this often, in seconds."""
    prometheus_address: Address | None = None
    """Where a page for Prometheus is served without a token, `host:port`. Left out: by the admin
    API only."""
    top_tenants: Annotated[int, Field(ge=0, le=1000)] = 20
    """So many tenants have series of their own, those with most traffic; `other` is the rest."""
    metric_prefix: Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]{0,31}$")] = "tenantry"
    """What the names of all series begin with."""


class Identification(Model):
    """Methods are tried in order; the first that names a tenant decides; then `fallback`."""

    methods: tuple[IdentifyMethod, ...] = ("username_prefix", "database_name", "startup_option")
    """Tried in order; the first that names a tenant decides."""
    separator: Annotated[str, Field(min_length=1, max_length=1)] = "."
    """Between tenant and user in `acme.appuser`."""
    database_suffix: str = "_db"
    """Taken off the database name: `acme_db` names `acme`."""
    option: str = "tenantry.tenant"
    """Startup option that names the tenant: `options='-c tenantry.tenant=acme'`."""
    fallback: str | None = None
    """Tenant of those whom no method names. Left out: they are refused."""


class Limits(Model):
    """Process-wide bounds; each protects the proxy itself rather than one tenant."""

    max_clients: Count = 20_000
    """Client connections of one worker."""


class Admin(Model):
    """The admin API beyond its address."""

    cert_path: str = ""
    """Certificate chain, PEM. Needed to listen on another address than a loopback one."""
    key_path: str = ""
    """Its private key, PEM."""
    ca_path: str = ""
    """Authorities that sign client certificates, PEM. Whoever shows one whose common name is an
    operator's needs no token."""
    hosts: tuple[str, ...] = ()
    """Host names under which it is reached, besides addresses and localhost."""
    allow_plaintext: bool = False
    """Listen without TLS on other addresses too, because something before it speaks TLS. Tokens are
    still asked for."""


class Sections(Model):
    """What stands in the configuration file outside of `[multi_tenancy]`."""

    listen_address: Address = "127.0.0.1:6432"
    """Where PostgreSQL clients connect, `host:port`."""
    admin_address: AdminAddress = "127.0.0.1:9090"
    """Where the admin API answers, `host:port`, or `off`."""
    admin_allow_insecure: bool = False
    """Ask nobody for a token who reaches the admin API. Dangerous."""
    tr_enabled: bool = False
    """Replay transactions after a failover."""
    tr_mode: Literal["none", "session", "select", "transaction"] = "none"
    """What is replayed."""
    write_timeout_secs: Duration = 30.0
    """A client that takes no bytes for this long is disconnected."""
    nodes: tuple[Node, ...] = ()
    pool: Pool = Pool()
    pool_mode: PoolMode = PoolMode()
    load_balancer: LoadBalancer = LoadBalancer()
    health: Health = Health()
    tls: Tls = Tls()
    auth: Auth = Auth()
    events: Events = Events()
    limits: Limits = Limits()
    admin: Admin = Admin()
    analytics: Analytics = Analytics()
    audit: Audit = Audit()
    telemetry: Telemetry = Telemetry()


class Installation(Sections):
    """Everything but the tenants, resolved."""

    identification: Identification = Identification()
    defaults: Settings = Field(default_factory=dict)
    """Settings of tenants that do not set them."""
    max_tenants: Count = None
    """Most tenants in this file."""
    allow_unknown_tenants: bool = False
    """Tenantry refuses unknown tenants; only `false` is accepted."""
    auto_create_tenants: bool = False
    """Tenants are created by configuration only; only `false` is accepted."""
    cross_tenant_analytics: bool = False
    """Statistics over all tenants for operators."""
    deletion_retention: Duration = 30 * 86400.0
    """A deleted tenant can be restored for this long; then its personal data is erased."""
