"""What may be written after `tenantry branches`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from admin.cli.parts import as_json, command, config_file, data_dir, group

if TYPE_CHECKING:
    from admin.cli.parts import Commands


def add(commands: Commands) -> None:
    """`tenantry branches list|refresh|drop`."""
    below = group(commands, "branches", "look at tenants' clones of databases, and renew them")
    listed = command(
        below, "list", "list the branches of all tenants", _list, "tenantry branches list"
    )
    refreshed = command(
        below,
        "refresh",
        "clone a tenant's branch anew from its base: what the tenant wrote is lost",
        _refresh,
        "tenantry branches refresh --tenant delta --yes",
    )
    dropped = command(
        below,
        "drop",
        "drop the branch of a disabled tenant; enabling it clones again",
        _drop,
        "tenantry branches drop --tenant delta --yes",
    )
    for made in (refreshed, dropped):
        made.add_argument("--tenant", required=True, metavar="T", help="whose branch")
        made.add_argument("--yes", action="store_true", help="do not ask")
    for made in (listed, refreshed, dropped):
        config_file(made, "find the installation by the [events] of this file")
        data_dir(made)
        as_json(made)


# Imported when asked for, so that --help answers at once.


def _list(given: argparse.Namespace) -> int:
    from admin.cli.branches import list_branches

    return list_branches(given.data_dir, given.config, as_json=given.json)


def _refresh(given: argparse.Namespace) -> int:
    from admin.cli.branches import refresh

    return refresh(given.tenant, given.data_dir, given.config, yes=given.yes, as_json=given.json)


def _drop(given: argparse.Namespace) -> int:
    from admin.cli.branches import drop

    return drop(given.tenant, given.data_dir, given.config, yes=given.yes, as_json=given.json)
