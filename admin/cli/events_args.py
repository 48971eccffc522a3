"""What may be written after `tenantry events`."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from admin.cli.parts import as_json, command, config_file, data_dir, group, number

if TYPE_CHECKING:
    from admin.cli.parts import Commands

_SEQUENCE_MAX: Final = 2**63 - 1
_LIST_MAX: Final = 1_000_000
_TIME: Final = 'e.g. 2026-11-01T10:00Z, 2026-11-01 or "10 minutes ago"; UTC unless it says so'


def add(commands: Commands) -> None:
    """`tenantry events …`."""
    below = group(commands, "events", "look at the log of all changes, check it, copy it")
    made = [
        _list(below),
        _show(below),
        _diff(below),
        _replay(below),
        _verify(below),
        _export(below),
        _import(below),
    ]
    for each in made:
        config_file(each, "find the installation by the [events] of this file")
        data_dir(each)
        as_json(each)


def two_times(made: argparse.ArgumentParser) -> None:
    """--from and --to."""
    made.add_argument("--from", dest="since", metavar="TIME", required=True, help=_TIME)
    made.add_argument("--to", dest="until", metavar="TIME", default="now", help="left out: now")


def _list(below: Commands) -> argparse.ArgumentParser:
    made = command(
        below,
        "list",
        "list the events, the newest last",
        _Run("list_events"),
        "tenantry events list --tenant acme",
        'tenantry events list --since "2 hours ago" --kind TenantDisabled',
        "tenantry events list --since 2026-11-01T10:00Z --until 2026-11-01T11:00Z --json",
    )
    made.add_argument("--tenant", metavar="ID", help="only of this tenant")
    made.add_argument(
        "--kind", metavar="KIND", help="only of this kind (tenant, tier …) or type (TenantChanged)"
    )
    made.add_argument("--since", metavar="TIME", help=_TIME)
    made.add_argument("--until", metavar="TIME", help="as --since")
    made.add_argument(
        "--limit",
        type=number(1, _LIST_MAX),
        default=50,
        metavar="N",
        help="only the last N of them (default 50)",
    )
    return made


def _show(below: Commands) -> argparse.ArgumentParser:
    made = command(
        below, "show", "show all of one event", _Run("show_event"), "tenantry events show 42"
    )
    made.add_argument("sequence", metavar="SEQ", type=number(1, _SEQUENCE_MAX))
    return made


def _diff(below: Commands) -> argparse.ArgumentParser:
    made = command(
        below,
        "diff",
        "show what differs between two times, and in whose settings",
        _Run("diff_events"),
        "tenantry events diff --from yesterday",
        "tenantry events diff --from 2026-11-01T10:00Z --to 2026-11-01T11:00Z",
    )
    two_times(made)
    return made


def _replay(below: Commands) -> argparse.ArgumentParser:
    made = command(
        below,
        "replay",
        "fold the log from its first event and tell what it comes to; changes nothing",
        _Run("replay_events"),
        "tenantry events replay",
        "tenantry events replay --to 42",
        "tenantry events replay --at 2026-11-01T10:00Z --json",
    )
    end = made.add_mutually_exclusive_group()
    end.add_argument(
        "--to", type=number(0, _SEQUENCE_MAX), metavar="SEQ", help="stop after this event"
    )
    end.add_argument("--at", metavar="TIME", help=_TIME)
    return made


def _verify(below: Commands) -> argparse.ArgumentParser:
    made = command(
        below,
        "verify",
        "check the whole log: gaps, order, what cannot be read, parked tenants; 1 on trouble",
        _Run("verify_events"),
        "tenantry events verify",
        "tenantry events verify --digest 9f86d08…    (what `events replay` told elsewhere)",
    )
    made.add_argument("--digest", metavar="HEX", help="what folding it must come to")
    return made


def _export(below: Commands) -> argparse.ArgumentParser:
    made = command(
        below,
        "export",
        "write the log to a file; secrets in it are sealed, and the key is not in it",
        _Run("export_events"),
        "tenantry events export backup.jsonl",
        "tenantry events export --with-keys backup.jsonl",
    )
    made.add_argument("file", type=Path, metavar="FILE")
    made.add_argument(
        "--with-keys",
        action="store_true",
        help="also the keys of personal data (TENANTRY_KEYS), sealed with the installation's key: "
        "without them names, metadata and users of tenants cannot be read elsewhere, and with them "
        "the file undoes the erasure of people who are purged later",
    )
    return made


def _import(below: Commands) -> argparse.ArgumentParser:
    made = command(
        below,
        "import",
        "put an exported file into an empty log; run it again if it was interrupted",
        _Run("import_events"),
        "tenantry events import backup.jsonl --verify-only",
        "tenantry engines up && tenantry events import backup.jsonl && tenantry serve",
    )
    made.add_argument("file", type=Path, metavar="FILE")
    made.add_argument("--verify-only", action="store_true", help="only check the file")
    return made


class _Run:
    """Calls a function of admin.cli.events, which is imported then: --help answers at once."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, given: argparse.Namespace) -> int:
        module = importlib.import_module("admin.cli.events")
        code: int = getattr(module, self._name)(given)
        return code
