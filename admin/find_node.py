"""Finds the PostgreSQL server of an installation and the tenants on it, for commands that connect.

With a configuration file both come from the file, so that nothing but the server needs to run; a
built-in node is looked for in the data directory. Without, both come from the log.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from admin.cli.failure import MISTAKE, Failure, WrongFile
from admin.config.load import load
from admin.config.rules import resolve
from admin.control import Control
from admin.data_dir import DataDir
from admin.engines.both import EmbeddedPostgres
from admin.find_log import open_log
from admin.worker import primary
from events.installation import Installation, Node
from events.model import Tenant
from events.projection import Projection
from events.secrets import Vault, node_purpose


@dataclass(frozen=True)
class Found:
    """The primary, with its password in clear, and every tenant that the configuration names."""

    node: Node
    tenants: list[Tenant]

    def of_database(self, database: str) -> list[Tenant]:
        return [each for each in self.tenants if each.database == database]


async def find(data_dir: Path, config: Path | None) -> Found:
    """Raises Failure, LogError, SecretError."""
    if config is not None:
        return _of_file(DataDir(data_dir), config)
    async with open_log(data_dir, None) as control:
        return Found(node_of(data_dir, control), _of_log(control.projection))


def node_of(data_dir: Path, control: Control) -> Node:
    """The primary as the log names it. Raises Failure, SecretError."""
    installation = control.projection.installation() or Installation()
    return _node(DataDir(data_dir), installation, control.vault)


def _of_log(projection: Projection) -> list[Tenant]:
    found = (projection.tenant(id) for id in projection.ids())
    return [tenant for tenant in found if tenant is not None]


def _of_file(data: DataDir, config: Path) -> Found:
    loaded = load(config, os.environ)
    if loaded.installation is None or loaded.mistakes:
        raise WrongFile([mistake.text(str(config)) for mistake in loaded.mistakes])
    tenants = [
        resolve(id, {**settings, "users": []}, loaded.installation.defaults)
        for id, settings in loaded.tenants
    ]
    return Found(_node(data, loaded.installation, None), tenants)


def _node(data: DataDir, installation: Installation, vault: Vault | None) -> Node:
    """`vault` opens passwords of the log; those of a file are in clear."""
    node = primary(installation, None)
    if node is None:
        raise Failure("No node is an enabled primary: correct [[nodes]].", MISTAKE)
    if node.embedded:
        engine = EmbeddedPostgres(data.path)
        if engine.pid() is None:
            raise Failure(
                f"The built-in PostgreSQL in {data.path} does not run: start it with "
                "`tenantry serve` or `tenantry engines up`, or name its --data-dir."
            )
        place = {"host": engine.host, "port": engine.port(), "user": engine.user}
        return node.model_copy(
            update={
                **place,
                "sslmode": "disable",
                "name": "embedded",
                "password": engine.password(),
            }
        )
    if node.password and vault is not None:
        purpose = node_purpose(node.host, node.port, node.user)
        return node.model_copy(update={"password": vault.open(node.password, purpose)})
    return node
