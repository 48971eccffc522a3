"""`tenantry serve`."""

from __future__ import annotations

import argparse
import logging
import sys

import uvloop

from admin.cli.failure import MISTAKE, Failure
from admin.supervisor import Supervisor
from admin.telemetry.logs import masked, set_up

log = logging.getLogger("tenantry")


def serve(given: argparse.Namespace) -> int:
    """Serve until stopped; the exit code. Raises Failure."""
    if given.watch and given.config is None:
        raise Failure("--watch needs a file to watch: name it with --config FILE.", MISTAKE)
    level = "DEBUG" if given.debug else "INFO"
    set_up(level, json=given.json_logs, who="supervisor" if given.json_logs else "")

    def say(line: str) -> None:
        if given.json_logs:
            log.info("%s", line)
        else:
            print(masked(line), file=sys.stderr, flush=True)

    async def work() -> int:
        supervisor = Supervisor(
            config=given.config,
            data_dir=given.data_dir,
            workers=given.workers,
            say=say,
            port=given.port,
            log_level=level,
            json_logs=given.json_logs,
            fast_engines=given.fast_engines,
            watch_file=given.watch,
        )
        return await supervisor.run()

    return uvloop.run(work())
