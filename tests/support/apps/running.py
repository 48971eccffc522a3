"""Runs applications as processes of their own, and does for them what an operator does."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from support.estate import PASSWORD, Estate
from support.provisioning import node

from admin.protect.protect import Wishes, look
from admin.provision.tenant import open_admin
from wire.postgres.scram import make_verifier

DJANGO_SHOP = Path(__file__).parent / "django_shop"
RUN_SECONDS = 90
OPERATOR = "ops"


def shop(dsn: str, *steps: str, **settings: str) -> dict[str, Any]:
    """Run the Django shop in a process of its own; what it has seen, by step."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "flow.py", *steps],
        cwd=DJANGO_SHOP,
        env={**os.environ, "SHOP_DATABASE": dsn, "PGSSLMODE": "disable", **settings},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def at_once(names: Sequence[str], run: Callable[[str], Any]) -> dict[str, Any]:
    """What `run` returns for each name, all running at the same time."""
    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(run, names), strict=True))


def let_operator_in(made: Estate) -> None:
    """An operator's credential for all tenants, and so for whole databases."""
    verifier = make_verifier(PASSWORD)
    made.operators[OPERATOR] = {"role": "operator", "scram": verifier, "tenants": ["*"]}


def operator_dsn(made: Estate, database: str) -> str:
    """Where migrations of shared tables are run."""
    return made.dsn(OPERATOR, user=OPERATOR, dbname=f"@{database}")


def corrections(made: Estate, database: str, share: Sequence[str] = ()) -> list[str]:
    """The SQL that `tenantry protect --json` proposes for what stands in the way."""
    tenants = [each for each in made.tenants.values() if each.database == database]
    wishes = Wishes(database, shared=tuple(share), accept_primary_keys=True)

    async def run() -> list[str]:
        server = made.server
        async with await open_admin(node(server), server.password, database) as conn:
            looked = await look(conn, wishes, tenants)
            return [each.fix for each in looked.plan.concerns if each.blocks]

    return asyncio.run(run())
