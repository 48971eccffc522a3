"""What `tenantry pools`, `reload` and `drain` do."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from typing import Any, Final

import orjson

from admin.cli.failure import FAILED, Failure
from admin.cli.send import me
from admin.cli.tables import print_table
from admin.console.calls import RELOAD_SECONDS, SUPERVISOR, Call, Caller, Gathered
from admin.console.node import summed
from admin.data_dir import DataDir
from admin.find_log import connect_log
from events.tokens import TokenSigner

POLL_SECONDS: Final = 0.1
_HEAD: Final = ("TENANT", "CLIENTS", "WAITING", "LONGEST", "ACTIVE", "IDLE", "MODE", "STATE")


async def ask(given: argparse.Namespace, call: Call, seconds: float = 2.0) -> Gathered:
    """All processes of the installation. Raises Failure, LogError, TenantryError."""
    async with connect_log(given.data_dir, given.config) as (source, vault):
        caller = Caller(source.connection, TokenSigner(vault))
        return await caller.ask(call, me(), seconds=seconds)


async def pools(given: argparse.Namespace) -> int:
    found = await ask(given, Call("look", tenant=given.tenant))
    if not found.answered:
        raise Failure("No worker answers: start `tenantry serve`.")
    rows = [row for _, row in sorted(summed(found.rows).items())]
    for row in rows:
        row.pop("client_rows", None)
        row.pop("server_rows", None)
    if given.json:
        told = {"pools": rows, "missing": found.missing}
        print(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
    else:
        print_table(_HEAD, [_line(row) for row in rows], "No tenant is in use.")
    for text in found.missing:
        print(f"{text} does not answer", file=sys.stderr)
    return FAILED if found.missing else 0


def _line(row: dict[str, Any]) -> tuple[object, ...]:
    longest = f"{row['wait_us'] / 1e6:.2f} s" if row["cl_waiting"] else "-"
    return (
        *(row["tenant"], row["clients"], row["cl_waiting"], longest),
        *(row["sv_active"], row["sv_idle"], row["pool_mode"]),
        "paused" if row["paused"] else "",
    )


async def reload(given: argparse.Namespace) -> int:
    found = await ask(given, Call("reload", to=SUPERVISOR), RELOAD_SECONDS)
    wrong = [row["error"] for row in found.rows if row["error"]] + found.errors
    if given.json:
        print(orjson.dumps({"reloaded": len(found.rows), "errors": wrong}).decode())
    if wrong:
        raise Failure("\n".join(wrong))
    if not found.answered:
        raise Failure("Nobody answers: start `tenantry serve`.")
    if not given.json:
        print(f"{len(found.rows)} have read their file again")
    return 0


def drain(given: argparse.Namespace) -> int:
    """Signals to the supervisor, which it takes as orders; waits until it has gone."""
    data = DataDir(given.data_dir)
    pid = data.holder()
    if pid is None:
        raise Failure(f"No Tenantry runs in {data.path}: name its --data-dir.", 3)
    _signal(pid)
    if given.now:
        # The second one stops it at once.
        time.sleep(POLL_SECONDS)
        _signal(pid)
    deadline = time.monotonic() + given.timeout
    while data.holder() == pid:
        if time.monotonic() >= deadline:
            raise Failure(
                f"Process {pid} still drains after {given.timeout} s: wait, "
                "or use `tenantry drain --now`."
            )
        time.sleep(POLL_SECONDS)
    print(f"process {pid} has stopped")
    return 0


def _signal(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        try:
            os.kill(pid, signal.SIGTERM)
        except PermissionError:
            raise Failure(
                f"Process {pid} belongs to somebody else: do it as its user, or as root.", 5
            ) from None
