"""What may be written after `tenantry protect`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from admin.cli.parts import as_json, command, config_file, data_dir

if TYPE_CHECKING:
    from admin.cli.parts import Commands


def add(commands: Commands) -> None:
    """`tenantry protect …`."""
    made = command(
        commands,
        "protect",
        "show what a shared database needs for row tenants, or do it",
        _run,
        "tenantry protect --database shared_db",
        "tenantry protect --database shared_db --apply",
        "tenantry protect --database shared_db --share countries --accept-primary-keys --apply",
        "tenantry protect --database shared_db --accept orders.orders_number_key --apply",
    )
    made.add_argument("--database", required=True, metavar="DB", help="the shared database")
    made.add_argument(
        "--column", metavar="NAME", help="the tenant column (default: the tenants', tenant_id)"
    )
    many = (
        ("--schema", "S", "look into this schema (default: those of the row tenants)"),
        ("--share", "TABLE", "let every row tenant of the database read this table"),
        ("--accept", "NAME", "accept what stands in the way under this name (TABLE.CONSTRAINT)"),
    )
    for name, metavar, about in many:
        made.add_argument(name, action="append", default=[], metavar=metavar, help=about)
    made.add_argument(
        "--accept-primary-keys",
        action="store_true",
        help="accept all primary keys of one column with generated values",
    )
    made.add_argument("--apply", action="store_true", help="do it; without, only show it")
    config_file(made, "nodes and tenants as this file names them (default: as the log does)")
    data_dir(made)
    as_json(made)


def _run(given: argparse.Namespace) -> int:
    # Imported when asked for, so that --help answers at once.
    from admin.cli.protect import run

    return run(given)
