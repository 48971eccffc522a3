"""Both embedded engines together: what `serve` starts and stops, and `tenantry engines`."""

from __future__ import annotations

import asyncio
import shlex
import shutil
from pathlib import Path
from typing import Final

from admin.engines.nats import EmbeddedNats
from admin.engines.postgres import EmbeddedPostgres
from admin.engines.process import EngineError, EngineStatus, Say, silent, write_private
from admin.engines.programs import packaged_programs

__all__ = [
    "EmbeddedNats",
    "EmbeddedPostgres",
    "EngineError",
    "EngineStatus",
    "Engines",
    "engines_down",
    "engines_status",
    "engines_up",
    "psql_line",
]

# Present while `tenantry engines up` wants them to outlive every supervisor.
KEPT: Final = "engines.kept"


class Engines:
    """The engines that an installation asked for; `postgres` or `nats` is None when it did not."""

    def __init__(
        self, data_dir: Path, *, postgres: bool = True, nats: bool = True, fast: bool = False
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.postgres = EmbeddedPostgres(self.data_dir, fast=fast) if postgres else None
        self.nats = EmbeddedNats(self.data_dir, fast=fast) if nats else None

    async def start(self, say: Say = silent) -> None:
        """Start what is asked for, side by side; when one fails the other is stopped again."""
        wanted = [engine for engine in (self.postgres, self.nats) if engine is not None]
        results = await asyncio.gather(
            *(engine.start(say) for engine in wanted), return_exceptions=True
        )
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            await self.stop(say)
            raise failures[0]

    async def stop(self, say: Say = silent) -> None:
        """Stop them, unless `engines up` has asked to keep them."""
        if is_kept(self.data_dir):
            say("the engines keep running: `tenantry engines down` stops them")
            return
        for engine in (self.nats, self.postgres):
            if engine is not None:
                await engine.stop(say)


def is_kept(data_dir: Path) -> bool:
    """Whether `engines up` wants the engines to outlive supervisors."""
    return (data_dir / KEPT).exists()


def engines_up(data_dir: Path, say: Say = silent, *, fast: bool = False) -> list[EngineStatus]:
    """Start both engines and leave them running in the background; EngineError says what lacks."""
    engines = Engines(data_dir, fast=fast)
    asyncio.run(engines.start(say))
    write_private(engines.data_dir / KEPT, "by tenantry engines up\n")
    say(f"psql:  {psql_line(data_dir)}")
    say(f"stop:  tenantry engines down --data-dir {shlex.quote(str(data_dir))}")
    return engines_status(data_dir)


def engines_down(data_dir: Path, say: Say = silent) -> list[EngineStatus]:
    """Stop both engines, whoever started them."""
    (data_dir / KEPT).unlink(missing_ok=True)
    if not any(engine.running for engine in engines_status(data_dir)):
        say("no engine is running")
    asyncio.run(Engines(data_dir).stop(say))
    return engines_status(data_dir)


def engines_status(data_dir: Path) -> list[EngineStatus]:
    """What runs now beneath `data_dir`."""
    return [EmbeddedPostgres(data_dir).status(), EmbeddedNats(data_dir).status()]


def psql_line(data_dir: Path, dbname: str = "postgres") -> str:
    """A line to paste into a shell; it reads the password from its file, so it shows none."""
    postgres = EmbeddedPostgres(data_dir)
    program = shutil.which("psql") or str(packaged_programs() / "psql")
    secret = shlex.quote(str(postgres.password_file()))
    return (
        f'PGPASSWORD="$(cat {secret})" {shlex.quote(program)} '
        f"-h {postgres.host} -p {postgres.port()} -U {postgres.user} -d {dbname}"
    )
