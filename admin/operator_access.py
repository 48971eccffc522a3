"""Work across tenants: a whole shared database, for operators who may enter all tenants.

Such a session is named by its database with an "@" before it. To the rest of the worker it is a
tenant of that name, with a database of its own, that may do everything; its servers log in as the
node's own user. Nobody but an operator gets there: no tenant's id begins with "@".
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from admin.engines.postgres import EmbeddedPostgres
from events.installation import Node
from events.model import OPERATIONS, Provisioned, Tenant
from events.secrets import Vault, node_purpose
from wire.postgres.connect import Target
from wire.postgres.tls_setup import node_tls

PREFIX: Final = "@"
# Statements of migrations are long, and take long.
_LIMITS: Final = dict.fromkeys(
    (
        *("qps_limit", "max_query_duration", "max_idle_in_transaction", "max_statement_size"),
        *("max_result_size", "max_rows_per_query"),
    ),
    "unlimited",
)


def is_whole(id: str) -> bool:
    """Whether the id is that of a whole database."""
    return id.startswith(PREFIX)


def whole_database(id: str) -> Tenant:
    """What stands for the database in place of a tenant."""
    made = Tenant.model_validate(
        {
            "id": "operators",
            "isolation": {"strategy": "database", "database_name": id.removeprefix(PREFIX)},
            "pool": {"dedicated_pool": True, "min_idle": 0, "idle_timeout": 60},
            "rate_limits": _LIMITS,
            "permissions": {
                "allowed_operations": sorted(OPERATIONS),
                "allow_ddl": True,
                "allow_system_access": True,
                "max_tables_per_query": "unlimited",
            },
            "provisioned": Provisioned(role="", secret=""),
        }
    )
    return made.model_copy(update={"id": id})


def whole_target(id: str, node: Node, data_dir: str, vault: Vault) -> Target:
    """Where the database's servers are, as the node's user. Raises SecretError."""
    password = ""
    if node.embedded:
        password = EmbeddedPostgres(Path(data_dir)).password()
    elif node.password:
        password = vault.open(node.password, node_purpose(node.host, node.port, node.user))
    database = id.removeprefix(PREFIX)
    return Target(node.host, node.port, database, node.user, password, node_tls(node))
