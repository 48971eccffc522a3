"""Makes PostgreSQL match a tenant: login role, database, schema or seal, privileges. Idempotent.

A run that was killed anywhere is finished by running again. What people added stays, with these
exceptions, each because tenants would reach what is not theirs:

- PUBLIC loses CONNECT and TEMPORARY on every database of the server, `postgres` and `template1`
  too; login roles that are no tenants are granted what they had through PUBLIC;
- PUBLIC loses CREATE in schema `public`, and EXECUTE on functions that signal other sessions, write
  large objects or the log, or reach other servers (dblink);
- where row tenants are, PUBLIC loses all it has on tables in the schemas of the shared tables, and
  EXECUTE on functions that read large objects or show other sessions;
- the tenant's role loses every attribute, membership and privilege that its permissions forbid.

The clear secret never reaches the server: the role gets a SCRAM verifier that is computed here.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import psycopg

from admin.provision import steps
from admin.provision.branch import ensure_clone
from admin.provision.grants import settle
from admin.provision.names import role_name, row_role_purpose, seal_key_purpose
from admin.provision.plan import Plan, ProvisioningFailed, fingerprint, plan
from admin.provision.rows import RowSecrets, ensure_row_roles, settle_rows
from admin.provision.settings import ensure_settings, refuse_same_value
from admin.provision.steps import Connection
from events.installation import Node
from events.model import Provisioned, Tenant
from events.secrets import SecretError, tenant_purpose
from wire.postgres.scram import make_verifier

__all__ = [
    "Opener",
    "Provisioned",
    "ProvisioningFailed",
    "Sealer",
    "close_to_public",
    "fingerprint",
    "node_name",
    "open_admin",
    "plan",
    "provision",
    "provision_lock",
    "role_name",
]

log = logging.getLogger("tenantry.provision")

# Where roles and databases are managed from; every PostgreSQL installation has it.
MAINTENANCE_DATABASE: Final = "postgres"
SECRET_BYTES: Final = 32
CONNECT_TIMEOUT_SECS: Final = 10
# Long enough for a queue of provisionings of one database, short enough that a tenant's own long
# transaction does not hold up its other statements behind our waiting ALTER TABLE for long.
LOCK_TIMEOUT_SECS: Final = 10
# CREATE DATABASE copies the template; nothing else here takes more than moments.
STATEMENT_TIMEOUT_SECS: Final = 300
# Somebody else changed the same catalog row: each try is a whole run, and those are cheap.
TRIES_MAX: Final = 5
RETRY_PAUSE_SECS: Final = 0.1

_OPTIONS: Final = (
    "-c search_path=pg_catalog,pg_temp -c default_transaction_read_only=off"
    f" -c lock_timeout={LOCK_TIMEOUT_SECS}s -c statement_timeout={STATEMENT_TIMEOUT_SECS}s"
    f" -c idle_in_transaction_session_timeout={LOCK_TIMEOUT_SECS * 6}s -c client_min_messages=error"
)
_PASSING: Final = (
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.ObjectInUse,
    psycopg.errors.DuplicateDatabase,
    psycopg.errors.DuplicateObject,
    psycopg.errors.DuplicateSchema,
    psycopg.errors.UniqueViolation,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.InvalidCatalogName,
)

Opener = Callable[[Node, str, str], Awaitable[Connection]]


class Sealer(Protocol):
    """What provisioning needs of events.secrets.Vault."""

    def seal(self, plaintext: str, purpose: str) -> str: ...

    def open(self, sealed: str, purpose: str) -> str: ...

    def derive(self, purpose: str) -> bytes: ...


async def open_admin(node: Node, password: str, database: str) -> Connection:
    """A connection with the node's own user, in autocommit. Raises psycopg.OperationalError."""
    return await psycopg.AsyncConnection[Any].connect(
        host=node.host,
        port=node.port,
        user=node.user,
        password=password or None,
        dbname=database,
        sslmode=node.sslmode,
        sslrootcert=node.sslrootcert or None,
        gssencmode="disable",
        connect_timeout=CONNECT_TIMEOUT_SECS,
        application_name="tenantry provisioning",
        options=_OPTIONS,
        autocommit=True,
    )


def node_name(node: Node) -> str:
    return node.name or f"{node.host}:{node.port}"


async def provision(
    tenant: Tenant,
    node: Node,
    vault: Sealer,
    *,
    node_password: str,
    previous: Provisioned | None,
    opener: Opener = open_admin,
) -> Provisioned:
    """Make the node match the tenant and answer what to record.

    The secret of `previous` is kept when it opens, so that working connections stay right.
    Raises ProvisioningFailed (names, privileges, the server's refusal).
    """
    wanted = plan(tenant)
    sealed, verifier = _credentials(wanted, vault, previous)
    row_secrets = RowSecrets(
        vault.derive(row_role_purpose(wanted.database)).hex(),
        vault.derive(seal_key_purpose(wanted.database)),
    )
    for left in reversed(range(TRIES_MAX)):
        notes: list[str] = []
        try:
            await _converge(wanted, node, node_password, verifier, row_secrets, opener, notes)
            break
        except psycopg.Error as error:
            if not left or not _is_passing(error):
                raise ProvisioningFailed(f"PostgreSQL: {str(error).strip()}") from error
            await asyncio.sleep(RETRY_PAUSE_SECS * (TRIES_MAX - left))
    for note in notes:
        log.warning("tenant %s on %s: %s", tenant.id, node_name(node), note)
    return Provisioned(
        role=wanted.role, secret=sealed, node=node_name(node), fingerprint=fingerprint(tenant)
    )


async def close_to_public(node: Node, password: str, opener: Opener = open_admin) -> None:
    """Close databases that were made by hand since: PUBLIC may enter new ones by default.
    Raises psycopg.Error."""
    async with (
        await opener(node, password, MAINTENANCE_DATABASE) as conn,
        provision_lock(conn, "databases"),
    ):
        await steps.close_databases(conn, None, [])


def _is_passing(error: psycopg.Error) -> bool:
    """Whether the same run may succeed when repeated: somebody else touched the same thing."""
    return isinstance(error, _PASSING) or "tuple concurrently" in str(error)


def _credentials(wanted: Plan, vault: Sealer, previous: Provisioned | None) -> tuple[str, str]:
    """The sealed secret and the verifier made of it."""
    purpose = tenant_purpose(wanted.tenant)
    if previous is not None and previous.role == wanted.role:
        try:
            return previous.secret, make_verifier(vault.open(previous.secret, purpose))
        except SecretError as error:
            log.warning("tenant %s gets a new secret: %s", wanted.tenant, error)
    secret = secrets.token_urlsafe(SECRET_BYTES)
    return vault.seal(secret, purpose), make_verifier(secret)


async def _converge(
    wanted: Plan,
    node: Node,
    password: str,
    verifier: str,
    row_secrets: RowSecrets,
    opener: Opener,
    notes: list[str],
) -> None:
    """One run. Locks are taken in this order: tenant, then one of base, databases, database."""
    async with (
        await opener(node, password, MAINTENANCE_DATABASE) as conn,
        provision_lock(conn, f"tenant {wanted.tenant}"),
    ):
        if wanted.base is not None:
            async with provision_lock(conn, f"base {wanted.base}"):
                await ensure_clone(conn, wanted.base, wanted.database, notes)
        async with provision_lock(conn, "databases"):
            await steps.ensure_database(conn, wanted)
            async with conn.transaction():
                await refuse_same_value(conn, wanted)
                if wanted.rows is not None:
                    await ensure_row_roles(conn, wanted, wanted.rows, row_secrets)
                await steps.ensure_role(conn, wanted, verifier)
                if not wanted.ddl:
                    await steps.ensure_owner(conn, wanted)
            await steps.close_databases(conn, wanted, notes)
        async with (
            provision_lock(conn, f"database {wanted.database}"),
            await opener(node, password, wanted.database) as inside,
        ):
            if wanted.rows is None:
                await settle(inside, wanted, notes)
            else:
                await settle_rows(inside, wanted, wanted.rows, row_secrets, notes)
        await ensure_settings(conn, wanted)


@asynccontextmanager
async def provision_lock(conn: Connection, name: str) -> AsyncIterator[None]:
    """Hold the server's advisory lock `name`; other controllers wait. It ends with `conn`."""
    key = {"name": f"tenantry provisioning: {name}"}
    await conn.execute("SELECT pg_advisory_lock(hashtextextended(%(name)s, 0))", key)
    try:
        yield
    finally:
        # Otherwise the connection is broken or cut short, and its end is the lock's.
        if conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            await conn.execute("SELECT pg_advisory_unlock(hashtextextended(%(name)s, 0))", key)
