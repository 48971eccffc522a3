"""The command line: `tenantry --help`. Errors are a sentence or two with what to do, never a trace.

Exit codes: `tenantry help exit-codes` (cli_operate.EXIT_CODES).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from admin.cli import audit_args as cli_audit
from admin.cli import branches_args as cli_branches
from admin.cli import commands_args as cli_commands_args
from admin.cli import events_args as cli_events_args
from admin.cli import operate_args as cli_operate
from admin.cli import protect_args as cli_protect
from admin.cli import stats as cli_stats
from admin.cli import top as cli_top
from admin.cli.failure import FAILED, Failure, WrongFile
from admin.cli.parser import Parser
from admin.cli.parts import (
    DATA_DIR,
    DATA_DIR_VARIABLE,
    as_json,
    command,
    config_file,
    data_dir,
    group,
    number,
)

if TYPE_CHECKING:
    from admin.cli.parts import Commands

# A shell's code for a program that Ctrl-C ended: 128 + SIGINT.
INTERRUPTED: Final = 130

_ABOUT: Final = """\
One PostgreSQL endpoint for many tenants, each sealed from the rest.

See it at work, with PostgreSQL and NATS started for you:
  tenantry demo

Then with a configuration file of your own (docs/example.toml is one to start from):
  tenantry config check tenantry.toml      every mistake at once, or what the file comes to
  tenantry serve --config tenantry.toml    start; Ctrl-C drains and stops
  psql -h 127.0.0.1 -p 6432 -U acme.appuser -d shared_db

While it runs:
  tenantry apply tenantry.toml --dry-run   what the changed file would change
  tenantry apply tenantry.toml             change it, for connected clients too
  tenantry tenants list                    who there is
  tenantry tenants change acme rate_limits.qps_limit=200
  tenantry help settings                   what else can be changed
  tenantry events list                     what changed, when, and by whom
  tenantry top                             who uses what now
  tenantry doctor                          what is wrong, and how to mend it

Started again without a file, it serves what its data directory knows:
  tenantry serve
"""
_END: Final = f"""\
The data directory is {DATA_DIR}, unless --data-dir or ${DATA_DIR_VARIABLE} names another.
`tenantry COMMAND --help` tells more of each command, `tenantry help settings` what tenants can
have, `tenantry help exit-codes` what commands answer to programs; `tenantry completion bash` makes
a shell complete them."""


# --- what may be written -----------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The whole command line. Each command sets `run`, which takes the arguments."""
    top = Parser(
        prog="tenantry",
        description=_ABOUT,
        epilog=_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--debug", action="store_true", help="show traces, and all of the log")
    top.add_argument("--version", action="store_true", help="print the version")
    commands = top.add_subparsers(title="commands", metavar="COMMAND")
    _serve(commands)
    _demo(commands)
    _config(commands)
    _apply(commands)
    _tenants(commands)
    cli_commands_args.add(commands)
    cli_events_args.add(commands)
    cli_protect.add(commands)
    cli_audit.add(commands)
    cli_stats.add_stats_command(commands)
    cli_top.add_top_command(commands)
    cli_branches.add(commands)
    _engines(commands)
    cli_operate.add(commands)
    return top


def _serve(commands: Commands) -> None:
    made = command(
        commands,
        "serve",
        "serve tenants until Ctrl-C; SIGHUP reads the file again",
        _run_serve,
        "tenantry serve --config tenantry.toml",
        "tenantry serve --config tenantry.toml --workers 4 --data-dir /var/lib/tenantry/main",
        "tenantry serve          (what the data directory knows from before)",
    )
    config_file(made, "what to serve; only what differs from before is taken")
    data_dir(made)
    made.add_argument(
        "--workers",
        type=number(0, 256),
        default=1,
        metavar="N",
        help="worker processes, which share the limits evenly; 0: serve in one process (default 1)",
    )
    made.add_argument(
        "--port", type=number(0, 65535), metavar="P", help="instead of listen_address's; 0: any"
    )
    made.add_argument("--json-logs", action="store_true", help="log one JSON object a line")
    made.add_argument(
        "--watch", action="store_true", help="apply the file whenever it changes, as on SIGHUP"
    )
    # Engines that give up durability: for tests.
    made.add_argument("--fast-engines", action="store_true", help=argparse.SUPPRESS)


def _demo(commands: Commands) -> None:
    made = command(
        commands,
        "demo",
        "start everything, show what tenants see and what is refused, and keep serving",
        _run_demo,
        "tenantry demo",
        "tenantry demo --once    (check each step, then stop)",
    )
    data_dir(made)
    made.add_argument("--once", action="store_true", help="stop after the last step")
    made.add_argument("--port", type=number(0, 65535), metavar="P", help="where to listen")


def _config(commands: Commands) -> None:
    below = group(commands, "config", "look at a configuration file")
    made = command(
        below,
        "check",
        "tell what a configuration file comes to, or every mistake in it",
        _run_config_check,
        "tenantry config check tenantry.toml",
    )
    made.add_argument("file", type=Path, metavar="FILE")
    as_json(made)
    made = command(
        below,
        "convert",
        "bring a configuration of another shape (TOML or YAML) to this one",
        _run_config_convert,
        "tenantry config convert heliosproxy.toml > tenantry.toml",
        "tenantry config convert gateway.yaml --output tenantry.toml",
    )
    made.add_argument("file", type=Path, metavar="FILE")
    made.add_argument("--output", type=Path, metavar="FILE", help="write it there, if it is new")
    as_json(made)


def _apply(commands: Commands) -> None:
    made = command(
        commands,
        "apply",
        "change a running installation to what a file says",
        _run_apply,
        "tenantry apply tenantry.toml --dry-run",
        "tenantry apply tenantry.toml",
    )
    made.add_argument("file", type=Path, metavar="FILE")
    made.add_argument("--dry-run", action="store_true", help="only tell what would change")
    config_file(made, "find the installation by the [events] of this file")
    data_dir(made)
    as_json(made)


def _tenants(commands: Commands) -> None:
    below = group(commands, "tenants", "look at and change the tenants of a running installation")
    listed = command(
        below,
        "list",
        "list all tenants",
        _run_tenants_list,
        "tenantry tenants list",
        'tenantry tenants list --at "10 minutes ago"',
    )
    shown = command(
        below,
        "show",
        "show all settings of a tenant",
        _run_tenants_show,
        "tenantry tenants show acme",
        "tenantry tenants show acme --at 2026-11-01T10:00Z",
    )
    compared = command(
        below,
        "diff",
        "show which settings of a tenant differ between two times",
        _run_tenants_diff,
        "tenantry tenants diff acme --from yesterday",
        "tenantry tenants diff acme --from 2026-11-01T10:00Z --to 2026-11-01T11:00Z",
    )
    for each in (shown, compared):
        each.add_argument("id", metavar="ID")
    for each in (listed, shown):
        each.add_argument("--at", metavar="TIME", help="as it was then (UTC unless it says so)")
    cli_events_args.two_times(compared)
    for each in (listed, shown, compared):
        config_file(each, "find the installation by the [events] of this file")
        data_dir(each)
        as_json(each)
    cli_commands_args.add_tenant_verbs(below)


def _engines(commands: Commands) -> None:
    below = group(commands, "engines", "the built-in PostgreSQL and NATS, for your experiments")
    for name, about in (
        ("up", "start PostgreSQL and NATS and leave them running"),
        ("down", "stop them"),
        ("status", "tell whether they run, and where"),
    ):
        made = command(below, name, about, _run_engines, f"tenantry engines {name}")
        made.set_defaults(action=name)
        data_dir(made)
        as_json(made)


# --- what it does: imported when asked for, so that --help answers at once -----------------------


def _run_serve(given: argparse.Namespace) -> int:
    from admin.cli.serve import serve

    return serve(given)


def _run_demo(given: argparse.Namespace) -> int:
    from admin.demo.run import run

    return run(given.data_dir, once=given.once, port=given.port)


def _run_config_check(given: argparse.Namespace) -> int:
    from admin.cli.config import check

    return check(given.file, as_json=given.json)


def _run_config_convert(given: argparse.Namespace) -> int:
    from admin.cli.convert import run

    return run(given)


def _run_apply(given: argparse.Namespace) -> int:
    from admin.cli.config import apply

    return apply(
        given.file, given.data_dir, given.config, dry_run=given.dry_run, as_json=given.json
    )


def _run_tenants_list(given: argparse.Namespace) -> int:
    from admin.cli.tenants import list_tenants

    return list_tenants(given.data_dir, given.config, given.at, as_json=given.json)


def _run_tenants_show(given: argparse.Namespace) -> int:
    from admin.cli.tenants import show_tenant

    return show_tenant(given.id, given.data_dir, given.config, given.at, as_json=given.json)


def _run_tenants_diff(given: argparse.Namespace) -> int:
    from admin.cli.tenants import diff_tenant

    return diff_tenant(given)


def _run_engines(given: argparse.Namespace) -> int:
    from admin.cli.engines import engines

    return engines(given.action, given.data_dir, as_json=given.json)


# --- the entry point -----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    commands = parser()
    given = commands.parse_args(arguments)
    if given.version:
        given.run, given.json = cli_operate.run_version, False
    if not hasattr(given, "run"):
        commands.print_help()
        return 0
    # Imported when something is to be done, so that --help answers at once.
    from admin.telemetry.logs import masked, set_up

    set_up("DEBUG" if given.debug else "WARNING")
    try:
        code: int = given.run(given)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Somebody read the first lines only; what remains must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if given.debug:
            raise
        text, code = explained(error)
        # Mistakes in a file begin with their place, so that editors can jump there.
        name = "" if isinstance(error, WrongFile) else "tenantry: "
        print(f"{name}{masked(text)}", file=sys.stderr)
        return code


def explained(error: Exception) -> tuple[str, int]:
    """What to tell people of `error`, and the exit code."""
    if isinstance(error, Failure):
        return str(error), error.exit_code
    from admin.cli.errors import explain

    return explain(error), FAILED
