"""Everyday commands of operators: doctor, pools, drain, reload, version, completion, help."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

from admin.cli.parser import near, subcommands
from admin.cli.parts import as_json, command, config_file, data_dir, number

if TYPE_CHECKING:
    from admin.cli.parts import Commands

DRAIN_SECONDS: Final = 60
EXIT_CODES: Final = """\
exit codes, the same for all commands:
  0    done, or nothing to do
  1    failed; the sentence on standard error says why and what to do
       (doctor: errors were found; events verify, audit verify: trouble was found;
       audit isolation: a hole or a risk; apply: some of the file is not possible)
  2    wrong usage, mistakes in a file, or the command was refused
       (audit isolation: not all could be examined)
  3    there is no such tenant, tier, operator …
  4    it exists already, or has changed meanwhile
  5    not allowed: no valid token, or a role that may not
  130  ended by Ctrl-C"""


def add(commands: Commands) -> None:
    _doctor(commands)
    made = command(
        commands,
        "pools",
        "show the pools of all workers: clients, servers, who waits",
        _run_pools,
        "tenantry pools",
        "tenantry pools --tenant acme --json",
    )
    made.add_argument("--tenant", default="", metavar="ID", help="of one tenant")
    _where(made)
    as_json(made)
    made = command(
        commands,
        "drain",
        "let transactions end, then stop the Tenantry of this data directory",
        _run_drain,
        "tenantry drain",
        "tenantry drain --timeout 300",
        "tenantry drain --now    (end what is under way)",
    )
    made.add_argument(
        "--timeout",
        type=number(1, 86_400),
        default=DRAIN_SECONDS,
        metavar="SECONDS",
        help=f"how long to wait for its end (default {DRAIN_SECONDS})",
    )
    made.add_argument("--now", action="store_true", help="do not wait for transactions")
    data_dir(made)
    made = command(
        commands,
        "reload",
        "let all running Tenantrys read their configuration file again",
        _run_reload,
        "tenantry reload",
    )
    _where(made)
    as_json(made)
    made = command(
        commands,
        "version",
        "print the versions of Tenantry and of what it consists of",
        run_version,
        "tenantry version",
        "tenantry version --json",
    )
    as_json(made)
    _completion(commands)
    made = command(
        commands,
        "help",
        "explain a command, the settings of a tenant, or exit-codes",
        _run_help,
        "tenantry help tenants change",
        "tenantry help settings rate_limits",
        "tenantry help exit-codes",
    )
    made.add_argument("words", nargs="*", metavar="COMMAND")


def _where(made: argparse.ArgumentParser) -> None:
    config_file(made, "find the installation by the [events] of this file")
    data_dir(made)


def _doctor(commands: Commands) -> None:
    made = command(
        commands,
        "doctor",
        "examine an installation, and say what to mend",
        _run_doctor,
        "tenantry doctor",
        "tenantry doctor --all",
        "tenantry doctor --config tenantry.toml --json --strict    (before a start, by a program)",
    )
    made.add_argument("--all", action="store_true", help="tell of what is in order, too")
    made.add_argument("--strict", action="store_true", help="fail for warnings as well")
    config_file(made, "examine this file too, and find the installation by it")
    data_dir(made)
    as_json(made)


def _completion(commands: Commands) -> None:
    made = command(
        commands,
        "completion",
        "print what lets a shell complete commands and options",
        _run_completion,
        "source <(tenantry completion bash)",
        "tenantry completion zsh > ~/.zfunc/_tenantry",
        "tenantry completion fish > ~/.config/fish/completions/tenantry.fish",
    )
    made.add_argument("shell", choices=("bash", "zsh", "fish"))


# --- what they do --------------------------------------------------------------------------------


def _run_doctor(given: argparse.Namespace) -> int:
    from admin.doctor.examine import run

    return run(given)


def _run_pools(given: argparse.Namespace) -> int:
    import asyncio

    from admin.cli.operate import pools

    return asyncio.run(pools(given))


def _run_reload(given: argparse.Namespace) -> int:
    import asyncio

    from admin.cli.operate import reload

    return asyncio.run(reload(given))


def _run_drain(given: argparse.Namespace) -> int:
    from admin.cli.operate import drain

    return drain(given)


def run_version(given: argparse.Namespace) -> int:
    from admin.cli.version import version

    return version(as_json=given.json)


def _run_completion(given: argparse.Namespace) -> int:
    from admin.cli.completion import script
    from admin.cli.main import parser

    print(script(parser(), given.shell))
    return 0


def _run_help(given: argparse.Namespace) -> int:
    from admin.cli.main import parser

    if given.words[:1] == ["settings"] and len(given.words) <= 2:
        from admin.cli.settings_help import text

        print(text("".join(given.words[1:])))
        return 0
    if given.words == ["exit-codes"]:
        print(EXIT_CODES)
        return 0
    found: Any = parser()
    for word in given.words:
        below = subcommands(found)
        if word not in below:
            from admin.cli.failure import MISTAKE, Failure

            known = [*below, "settings", "exit-codes"] if found.prog == "tenantry" else list(below)
            probably = near(word, known)
            hint = f'did you mean "{probably}"?' if probably else f"use one of {', '.join(known)}."
            raise Failure(f'There is no command "{word}" here: {hint}', MISTAKE)
        found = below[word]
    found.print_help()
    return 0
