"""Finds the log of an installation that runs: by its data directory, or by a configuration file."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from admin.cli.failure import Failure, WrongFile
from admin.config.load import load
from admin.control import Control
from admin.data_dir import DataDir
from admin.engines.both import EmbeddedNats
from events.log import ConfigLog
from events.nats_login import addresses
from events.secrets import KEY_VARIABLE, Vault

# A person waits for it, and a server that is there answers in milliseconds. Seconds.
PATIENCE: Final = 4.0


@asynccontextmanager
async def open_log(data_dir: Path, config: Path | None) -> AsyncIterator[Control]:
    """The configuration, folded, and the means to change it; nothing runs in the background.

    Raises Failure, LogError, SecretError.
    """
    data, vault = installation(data_dir)
    control = await Control.open(
        servers(data, config, vault), vault, name="command", patience=PATIENCE
    )
    try:
        yield control
    finally:
        await control.close()


@asynccontextmanager
async def connect_log(
    data_dir: Path, config: Path | None
) -> AsyncIterator[tuple[ConfigLog, Vault]]:
    """The log as it is, nothing of it read yet. Raises Failure, LogError, SecretError."""
    data, vault = installation(data_dir)
    log = await ConfigLog.connect(
        servers(data, config, vault), name="tenantry-command", patience=PATIENCE
    )
    try:
        yield log, vault
    finally:
        await log.close()


def installation(data_dir: Path) -> tuple[DataDir, Vault]:
    """Its files and its key. Raises Failure, SecretError."""
    data = DataDir(data_dir)
    if not data.has_key() and not os.environ.get(KEY_VARIABLE):
        raise Failure(
            f"There is no installation in {data.path}: name its --data-dir, "
            "or start one with `tenantry serve --config FILE`."
        )
    return data, Vault.load(data.path)


def servers(data: DataDir, config: Path | None, vault: Vault) -> list[str]:
    """Where NATS is. Raises Failure."""
    known = data.recall(vault)
    events_dir = known.events_dir if known else ""
    found = known.servers if known else ()
    if config is not None:
        loaded = load(config, os.environ)
        if loaded.installation is None:
            raise WrongFile([mistake.text(str(config)) for mistake in loaded.mistakes])
        events = loaded.installation.events
        events_dir, found = events.data_dir, () if events.embedded else addresses(events)
    if found:
        return list(found)
    nats = EmbeddedNats(Path(events_dir) if events_dir else data.path)
    if nats.pid() is None:
        raise Failure(
            f"The installation in {data.path} does not run, so its log cannot be read: "
            "start it with `tenantry serve`."
        )
    return [nats.nats_url()]
