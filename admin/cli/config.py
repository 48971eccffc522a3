"""`tenantry config check` and `tenantry apply`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from admin.cli.failure import FAILED, MISTAKE, WrongFile
from admin.config.load import load
from admin.config.render import check_as_dict, render_check
from admin.control import Control
from admin.find_log import open_log
from events.commands import Command, PutInstallation, PutTenant, PutTier
from events.installation import Installation
from events.settings import diff

ACTOR = "tenantry apply"


def check(file: Path, *, as_json: bool) -> int:
    """Tell what `file` comes to, or what is wrong with it."""
    loaded = load(file, os.environ)
    if as_json:
        print(orjson.dumps(check_as_dict(loaded), option=orjson.OPT_INDENT_2).decode())
    else:
        render_check(loaded, Console(highlight=False))
    return MISTAKE if loaded.mistakes else 0


def apply(
    file: Path, data_dir: Path, config: Path | None, *, dry_run: bool, as_json: bool = False
) -> int:
    """Bring the installation to what `file` says, or only tell what that would change."""
    return asyncio.run(_apply(file, data_dir, config, dry_run, as_json))


async def _apply(
    file: Path, data_dir: Path, config: Path | None, dry_run: bool, as_json: bool
) -> int:
    loaded = load(file, os.environ)
    for warning in loaded.warnings:
        print(f"warning: {warning.text(str(file))}", file=sys.stderr)
    if loaded.mistakes:
        raise WrongFile([each.text(str(file)) for each in loaded.mistakes])
    async with open_log(data_dir, config) as control:
        planned = await control.plan(loaded)
        told = [line for command in planned.commands for line in changes(control, command)]
        if not dry_run:
            installation = control.projection.installation() or Installation()
            control.open_audit(data_dir, installation, "command")
            await control.apply(loaded, ACTOR)
    if as_json:
        answer = {
            "changes": told,
            "not_possible": planned.refused,
            "left_alone": planned.unlisted,
            "dry_run": dry_run,
        }
        print(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode())
        return FAILED if planned.refused else 0
    for line in told or ["nothing to change"]:
        print(line)
    for sentence in planned.refused:
        print(f"not possible: {sentence}")
    if planned.unlisted:
        print(f"not in the file, left as they are: {', '.join(planned.unlisted)}")
    return FAILED if planned.refused else 0


def changes(control: Control, command: Command) -> Iterator[str]:
    """What `command` would change, in lines; of users only the names, of secrets nothing."""
    projection = control.projection
    if isinstance(command, PutInstallation):
        known, what = projection.installation_settings(), "installation"
    elif isinstance(command, PutTier):
        known, what = projection.tier_settings(command.name), f"tier {command.name}"
    else:
        assert isinstance(command, PutTenant), "a file gives no other commands"
        record = projection.record(command.id)
        what = f"tenant {command.id}"
        if record is None:
            yield f"{what}: new"
            return
        known = {**record.settings, "enabled": record.enabled}
    wanted = command.settings
    if isinstance(command, PutTenant):
        wanted = {"enabled": known["enabled"], **wanted}
    for path, value in _leaves(diff(known, wanted), ""):
        yield f"{what}: {path} = {value}"


def _leaves(patch: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in patch.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}.")
        elif value is None:
            yield path, "(default)"
        elif key == "users":
            yield path, ", ".join(user["name"] for user in value) or "(none)"
        elif key == "nodes":
            yield path, ", ".join(_node(node) for node in value)
        else:
            yield path, orjson.dumps(value).decode()


def _node(node: dict[str, Any]) -> str:
    if node.get("embedded"):
        return "embedded"
    return f"{node.get('host', '127.0.0.1')}:{node.get('port', 5432)}"
