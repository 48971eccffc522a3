"""What may be written to change things: `tenantry tenants …`, `tiers`, `users`, `tokens`,
`operators`."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Final

from admin.cli.parts import as_json, command, config_file, data_dir, group, number

if TYPE_CHECKING:
    from admin.cli.parts import Commands

_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][^\s=]*=")
_WITH_VALUE: Final = ("--file", "--config", "--data-dir", "--command-id")
_FORCE_PLACE: Final = "although its data is somewhere else already, where it stays"


class _Run:
    """Runs `name` of a module that is imported when asked for, so that --help answers at once."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def __call__(self, given: argparse.Namespace) -> int:
        run: Callable[[argparse.Namespace], Coroutine[None, None, int]]
        run = getattr(importlib.import_module(f"admin.cli.{self._module}"), self._name)
        import asyncio

        return asyncio.run(run(given))


def add(commands: Commands) -> None:
    """The groups that are all mine."""
    _tiers(commands)
    _users(commands)
    _operators(commands)
    _tokens(commands)


def _common(made: argparse.ArgumentParser, *, sends: bool = True) -> None:
    config_file(made, "find the installation by the [events] of this file")
    data_dir(made)
    as_json(made)
    if sends:
        made.add_argument("--dry-run", action="store_true", help="only tell what would change")
        made.add_argument("--later", action="store_true", help="store it: done when Tenantry runs")
        made.add_argument("--command-id", metavar="ID", help="sent again, it still happens once")


def _settings(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="e.g. pool.min_idle=2; `tenantry help settings` tells all",
    )
    made.add_argument("--file", metavar="FILE", help="settings as TOML or JSON; -: standard input")
    parse = made.parse_known_args

    def mixed(
        arguments: Sequence[str], namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """argparse takes a list of arguments in one piece only; people mix it with options."""
        settings: list[str] = []
        others: list[str] = []
        for at, text in enumerate(arguments):
            of_option = at > 0 and arguments[at - 1] in _WITH_VALUE
            (settings if _ASSIGNMENT.match(text) and not of_option else others).append(text)
        found, unknown = parse(others, namespace)
        found.settings = [*found.settings, *settings]
        return found, unknown

    made.parse_known_args = mixed  # type: ignore[method-assign, assignment]


def add_tenant_verbs(below: Commands) -> None:
    """Beneath `tenantry tenants`."""
    run = "tenant_commands"
    made = command(
        below,
        "create",
        "make a tenant",
        _Run(run, "create"),
        'tenantry tenants create acme name="Acme Corp" tier=gold rate_limits.qps_limit=500',
        "tenantry tenants create acme --file acme.toml --dry-run",
    )
    made.add_argument("id", metavar="ID")
    _settings(made)
    _common(made)
    made = command(
        below,
        "change",
        "change settings of a tenant; KEY= puts one back to its default",
        _Run(run, "change"),
        "tenantry tenants change acme rate_limits.qps_limit=200 pool.min_idle=",
        'echo \'{"tier": "gold"}\' | tenantry tenants change acme --file -',
    )
    made.add_argument("id", metavar="ID")
    _settings(made)
    made.add_argument("--force", action="store_true", help=_FORCE_PLACE)
    _common(made)
    for name, about in (
        ("disable", "refuse the tenant's clients from now on"),
        ("enable", "let the tenant's clients in again"),
        ("delete", "delete a tenant; it can be restored (undo) for a while"),
        (
            "purge",
            "erase the personal data of a deleted tenant, for ever; tells what PostgreSQL keeps",
        ),
    ):
        made = command(below, name, about, _Run(run, name), f"tenantry tenants {name} acme")
        made.add_argument("id", metavar="ID")
        if name == "purge":
            made.add_argument("--force", action="store_true", help="before its time has come")
        _common(made)
    made = command(
        below,
        "undo",
        "take back one change of a tenant",
        _Run(run, "undo"),
        "tenantry tenants undo acme 17",
        "tenantry events list --tenant acme    (tells the numbers)",
    )
    made.add_argument("id", metavar="ID")
    made.add_argument("sequence", type=number(1, 2**63 - 1), metavar="EVENT")
    made.add_argument("--force", action="store_true", help="although it was changed again since")
    _common(made)


def _tiers(commands: Commands) -> None:
    below = group(commands, "tiers", "settings that many tenants share")
    run = "tiers"
    made = command(below, "list", "list all tiers", _Run(run, "list_tiers"), "tenantry tiers list")
    _common(made, sends=False)
    made = command(
        below, "show", "show what a tier sets", _Run(run, "show"), "tenantry tiers show gold"
    )
    made.add_argument("name", metavar="TIER")
    _common(made, sends=False)
    made = command(
        below,
        "put",
        "let a tier set exactly this",
        _Run(run, "put"),
        "tenantry tiers put gold rate_limits.qps_limit=5000 features.graphql=true",
    )
    made.add_argument("name", metavar="TIER")
    _settings(made)
    _common(made)
    made = command(
        below,
        "delete",
        "delete a tier that no tenant has",
        _Run(run, "delete"),
        "tenantry tiers delete gold",
    )
    made.add_argument("name", metavar="TIER")
    _common(made)


def _users(commands: Commands) -> None:
    below = group(commands, "users", "who may log in as a tenant")
    run = "users"
    made = command(
        below,
        "list",
        "list the users of a tenant",
        _Run(run, "list_users"),
        "tenantry users list --tenant acme",
    )
    made.add_argument("--tenant", required=True, metavar="ID")
    _common(made, sends=False)
    made = command(
        below,
        "add",
        "add a user, or give one a new password; the password is asked for",
        _Run(run, "add"),
        "tenantry users add appuser --tenant acme",
        "tenantry users add appuser --tenant acme --password-stdin < password.txt",
    )
    made.add_argument("name", metavar="USER")
    made.add_argument("--tenant", required=True, metavar="ID")
    made.add_argument(
        "--password-stdin", action="store_true", help="read it from the first line of the input"
    )
    made.add_argument("--scram", metavar="FILE", help="a verifier as in pg_authid, from this file")
    _common(made)
    made = command(
        below,
        "remove",
        "remove a user",
        _Run(run, "remove"),
        "tenantry users remove appuser --tenant acme",
    )
    made.add_argument("name", metavar="USER")
    made.add_argument("--tenant", required=True, metavar="ID")
    _common(made)


def _operators(commands: Commands) -> None:
    below = group(commands, "operators", "who may give commands")
    run = "tokens"
    made = command(
        below, "list", "list them", _Run(run, "list_operators"), "tenantry operators list"
    )
    _common(made, sends=False)
    made = command(
        below,
        "put",
        "let an operator have this role, whatever its tokens say",
        _Run(run, "put_operator"),
        "tenantry operators put ann@example.org --role viewer",
        "tenantry operators put ann --role operator --tenants acme,globex --sql-password",
        "psql -h 127.0.0.1 -p 6432 -U ann -d tenantry    (the console, with that password)",
    )
    made.add_argument("name", metavar="NAME")
    made.add_argument("--role", required=True, choices=("viewer", "operator"))
    made.add_argument("--disabled", action="store_true", help="shut out for now")
    made.add_argument(
        "--tenants",
        metavar="IDS",
        help="tenants that it sees in the console and, as operator, works in over SQL: a,b or *; "
        "left out: as before",
    )
    sql = made.add_mutually_exclusive_group()
    sql.add_argument(
        "--sql-password", action="store_true", help="let it log in over SQL; the password is asked"
    )
    sql.add_argument(
        "--password-stdin", action="store_true", help="the same, read from the input's first line"
    )
    sql.add_argument("--scram", metavar="FILE", help="the same, a verifier as in pg_authid")
    sql.add_argument("--no-sql", action="store_true", help="no more logging in over SQL")
    _common(made)
    made = command(
        below,
        "delete",
        "refuse all tokens of an operator from now on",
        _Run(run, "delete_operator"),
        "tenantry operators delete ann@example.org",
    )
    made.add_argument("name", metavar="NAME")
    _common(made)


def _tokens(commands: Commands) -> None:
    below = group(commands, "tokens", "tokens to give commands with, over NATS and HTTP")
    run = "tokens"
    made = command(
        below,
        "create",
        "make a token and print it; it is shown this once",
        _Run(run, "create"),
        "tenantry tokens create --role operator --name ann@example.org",
        "tenantry tokens create --role tenant-admin --tenant acme --ttl 15min",
    )
    made.add_argument("--role", required=True, choices=("viewer", "tenant-admin", "operator"))
    made.add_argument("--tenant", default="", metavar="ID", help="for the role tenant-admin")
    made.add_argument("--ttl", default="8h", metavar="TIME", help="its life (default 8h)")
    made.add_argument("--name", metavar="NAME", help="whom it is for (default: who runs this)")
    _common(made, sends=False)
    made = command(
        below,
        "list",
        "list the tokens that have not expired",
        _Run(run, "list_tokens"),
        "tenantry tokens list",
    )
    _common(made, sends=False)
    made = command(
        below,
        "revoke",
        "let a token count no more",
        _Run(run, "revoke"),
        "tenantry tokens revoke 4f1c2b7d9e8a4c0f8d6b5a3e2f1c0d9b",
    )
    made.add_argument("jti", metavar="JTI")
    _common(made)
