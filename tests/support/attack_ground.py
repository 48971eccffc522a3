"""What stands between attacker and victim, and the ground that both stand on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import psycopg
from support.attack_canaries import OTHER
from support.attack_data import FILL, SHARED_FUNCTION, TABLE_NAMES, TABLES
from support.engines import Postgres
from support.estate import Estate, protect, tenant
from support.provisioning import login

from admin.provision.names import SEAL_ROLE, group_role
from events.model import Tenant

ME: Final = "acme"


@dataclass(frozen=True)
class Combination:
    """What stands between attacker and victim.

    direct  the attacker is past the proxy: only the database is left
    opened  nothing is left, so that attacks must succeed
    still   the victim holds nothing open
    """

    strategy: str
    enforcement: str = "both"
    dedicated: bool = False
    mode: str = "transaction"
    direct: bool = False
    opened: bool = False
    still: bool = False

    def __str__(self) -> str:
        words = [self.strategy]
        if self.strategy == "row":
            words += ["dedicated" if self.dedicated else "shared", self.enforcement]
        words += [self.mode, *(["direct"] if self.direct else []), *(["opened"] * self.opened)]
        return "-".join(words)

    @property
    def rows_only(self) -> bool:
        """With one layer off, it is the rows that the other must protect."""
        return self.direct or self.opened or self.enforcement != "both"

    @property
    def idle(self) -> bool:
        """Whether the victim has no transaction open: others' locks would wait for it."""
        return self.rows_only or self.still


def tenants(combination: Combination) -> list[Tenant]:
    """Attacker and victim."""
    strategy = combination.strategy
    settings: dict[str, Any] = {"permissions": {"allow_explain": True}}
    settings["pool"] = {"dedicated_pool": combination.dedicated, "max_connections": 6}
    if strategy == "row":
        settings |= {"database_name": "attacked", "shared_tables": ["countries"]}
        settings |= {"enforcement": "seal" if combination.opened else combination.enforcement}
    else:
        settings["permissions"] |= {"allow_ddl": True}
        if strategy == "schema":
            settings["database_name"] = "attacked"
        elif strategy == "branch":
            settings["branch_base"] = "mould"
    return [tenant(name, strategy, **settings) for name in (ME, OTHER)]


def fill_place(conn: psycopg.Connection[Any], names: tuple[str, ...]) -> None:
    conn.execute(TABLES)
    for name in names:
        for statement in FILL[name]:
            conn.execute(statement)


def prepare(made: Estate, combination: Combination) -> None:
    """All tables, with the rows of both."""
    if combination.strategy == "row":
        database = made.tenants[ME].database
        with made.admin(ME) as admin:
            fill_place(admin, (ME, OTHER))
            admin.execute(SHARED_FUNCTION)
            if combination.enforcement == "rewrite":
                for operation in ("select", "insert", "update", "delete"):
                    role = group_role(operation, database)
                    for name in (*TABLE_NAMES[:-1], "order_notes"):
                        admin.execute(f'GRANT {operation} ON {name} TO "{role}"')
        if combination.enforcement != "rewrite":
            protect(made, database, share=("countries",), accept=("codes.codes_code_key",))
        if combination.opened:
            with made.admin(ME) as admin:
                for table, name in admin.execute(
                    "SELECT polrelid::regclass::text, polname FROM pg_policy"
                ).fetchall():
                    admin.execute(f'ALTER POLICY "{name}" ON {table} USING (true)')
        return
    for name in (ME, OTHER):
        one = made.tenants[name]
        assert one.provisioned is not None
        with login(made.server, one, one.provisioned) as own:
            fill_place(own, (name,))


def demolish(server: Postgres) -> None:
    """The next house on this server has the same names."""
    with server.connect() as admin:
        kept = ("postgres", "template0", "template1")
        names = admin.execute("SELECT datname FROM pg_database").fetchall()
        for (name,) in names:
            if name not in kept:
                admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        roles = admin.execute("SELECT rolname FROM pg_roles WHERE rolname ~ '^tenantry'").fetchall()
        for (name,) in roles:
            if name == SEAL_ROLE:
                continue  # it has a parameter of the whole server
            admin.execute(f'DROP ROLE IF EXISTS "{name}"')
