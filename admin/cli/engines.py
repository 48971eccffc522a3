"""`tenantry engines up|down|status`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import orjson

from admin.cli.failure import FAILED
from admin.engines.both import engines_down, engines_status, engines_up


def engines(action: str, data_dir: Path, *, as_json: bool) -> int:
    """Start, stop or look; `status` exits with 1 unless both run."""

    def say(line: str) -> None:
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)

    if action == "up":
        statuses = engines_up(data_dir, say)
    elif action == "down":
        statuses = engines_down(data_dir, say)
    else:
        statuses = engines_status(data_dir)
    if as_json:
        rows = [asdict(status) for status in statuses]
        print(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
    elif action == "status":
        for status in statuses:
            where = f"on {status.host}:{status.port}, process {status.pid}"
            print(f"{status.name:<10} {f'runs {where}' if status.running else 'does not run'}")
            print(f"{'':<10} files: {status.directory}   log: {status.log}")
    if action == "status" and not all(status.running for status in statuses):
        return FAILED
    return 0
