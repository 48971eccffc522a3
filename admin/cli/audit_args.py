"""What may be written after `tenantry audit`: one group of commands, from two places."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from admin.cli.audit_log import add_log_commands
from admin.cli.parts import as_json, command, config_file, data_dir, group

if TYPE_CHECKING:
    from admin.cli.parts import Commands


def add(commands: Commands) -> None:
    """`tenantry audit …`."""
    below = group(commands, "audit", "look for ways out of isolation, and at who did what")
    made = command(
        below,
        "isolation",
        "check a live installation for every way that lets one tenant see another",
        _run,
        "tenantry audit isolation",
        "tenantry audit isolation --tenant acme --json",
    )
    made.add_argument("--tenant", metavar="ID", help="only what this tenant could use")
    config_file(made, "nodes and tenants as this file names them (default: as the log does)")
    data_dir(made)
    as_json(made)
    add_log_commands(below)


def _run(given: argparse.Namespace) -> int:
    # Imported when asked for, so that --help answers at once.
    from admin.cli.isolation import run

    return run(given)
