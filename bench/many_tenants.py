"""Many tenants instead of one: the same load over 50 of them, and 100,000 known with 100 active.

    python -P bench/many_tenants.py [--rounds 3] [--seconds 2] [--spread 50]
                                    [--known 100000] [--active 100] [--only spread,known]

spread  One pgbench with one client for each of the 50, all at once: on 50 tenants, and all 50 on
        one tenant with as many servers. The same against the server itself tells what part of a
        difference is PostgreSQL's own (50 roles, 50 schemas or databases).
known   The log is filled with tenants as commands would have (created, then provisioned, with
        secrets sealed by this installation's key), but many at once and unsynced, and without
        making their roles in PostgreSQL; the active ones are provisioned for real. Then Tenantry
        starts from that log, a client of each active tenant runs a statement and stays.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # the installed build goes first

import psycopg
from psycopg import sql

from admin.provision.sql import role_name
from admin.provision.tenant import fingerprint
from bench.compare import listed, ratio_of, silent
from bench.lab import PASSWORD, USER, Lab, config, laboratory, tenant_table
from bench.load import Endpoint, Work, all_at_once, medians
from bench.machine import begin, memory_of
from bench.tables import show
from events.codec import encode
from events.facts import Commit, Fact, TenantCreated, TenantProvisioned
from events.log import ConfigLog
from events.model import Tenant
from events.secrets import Vault, tenant_purpose
from events.stream import SUBJECT_PREFIX
from wire.postgres.scram import make_verifier

PARTS = ("spread", "known")
STRATEGIES = ("database", "schema")
POINTS = 1000
IN_FLIGHT_MAX = 500
# The node's name as `tenantry serve` records it for its embedded PostgreSQL.
NODE = "embedded"
SETTLE_SECONDS = 2.0

# No text comes twice: otherwise one tenant's cache would learn all of them, and 50 would not.
SCRIPT = f"""\\set id random(1, {POINTS})
\\set noise random(1, 1000000000)
SELECT value + :noise FROM points WHERE id = :id;
"""


# --- spread --------------------------------------------------------------------------------------


def spread_config(count: int) -> str:
    """For each strategy one tenant with `count` servers, and `count` tenants."""
    tables = []
    for strategy in STRATEGIES:
        tables.append(tenant_table(f"{strategy}-one", strategy, count))
        tables += [tenant_table(id, strategy, 2) for id in spread_ids(strategy, count)]
    return config(tables, budget=3 * count)


def spread_ids(strategy: str, count: int) -> list[str]:
    return [f"{strategy}-{number}" for number in range(count)]


def load_points(lab: Lab, id: str, strategy: str) -> None:
    """The same small table for each tenant."""
    database, schema = place(id, strategy)
    with lab.admin(database) as connection:
        table = sql.Identifier(schema, "points")
        connection.execute(
            sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, value bigint)").format(table)
        )
        connection.execute(
            sql.SQL("INSERT INTO {} SELECT n, n FROM generate_series(1, {}) n").format(
                table, sql.Literal(POINTS)
            )
        )
        connection.execute(sql.SQL("ANALYZE {}").format(table))


def place(id: str, strategy: str) -> tuple[str, str]:
    """Database and schema of a tenant."""
    return (f"{id}_db", "public") if strategy == "database" else ("shared_db", id)


def spread(count: int, rounds: int, seconds: int, say: Any = silent) -> list[dict[str, Any]]:
    """For each strategy: tps and proxy CPU of many tenants over those of one, median of rounds."""
    with laboratory(spread_config(count)) as lab, lab.serve():
        script = lab.folder / "points.sql"
        script.write_text(SCRIPT)
        work = Work("simple", 1, script)
        return [spread_of(lab, strategy, count, rounds, seconds, work, say)
                for strategy in STRATEGIES]  # fmt: skip


def spread_of(
    lab: Lab, strategy: str, count: int, rounds: int, seconds: int, work: Work, say: Any
) -> dict[str, Any]:
    one, many = f"{strategy}-one", spread_ids(strategy, count)
    for id in (one, *many):
        load_points(lab, id, strategy)
    say(f"{strategy}: {count} tenants are loaded")
    ways: dict[str, list[Endpoint]] = {
        "one": [lab.through(one, place(one, strategy)[0])] * count,
        "many": [lab.through(id, place(id, strategy)[0]) for id in many],
        "direct one": [lab.direct(one)] * count,
        "direct many": [lab.direct(id) for id in many],
    }
    pids = lab.processes()
    for endpoints in ways.values():
        all_at_once(endpoints, work, 1, pids)
    seen: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, endpoints in ways.items():
            tps, cpu = all_at_once(endpoints, work, seconds, pids)
            seen[way].append({"tps": tps, "cpu_us": cpu.total * 1e6})
            say(f"{strategy} {way:12} {tps:8.0f} tps {cpu.total * 1e6:7.2f} µs")

    def ratio(key: str, many: str, one: str) -> float:
        return ratio_of([row[key] for row in seen[many]], [row[key] for row in seen[one]])

    return {
        "strategy": strategy,
        "tenants": count,
        "ways": {way: {**medians(rows), "rounds": rows} for way, rows in seen.items()},
        "ratio": {
            "cpu_us": ratio("cpu_us", "many", "one"),
            "tps": ratio("tps", "many", "one"),
            "direct_tps": ratio("tps", "direct many", "direct one"),
        },
    }


# --- known ---------------------------------------------------------------------------------------


def active_ids(count: int) -> list[str]:
    return [f"active-{number}" for number in range(count)]


async def fill(lab: Lab, count: int, say: Any) -> float:
    """Put `count` provisioned tenants into the log; answers the seconds it took."""
    vault, verifier = Vault.load(lab.data), make_verifier(PASSWORD)
    log = await ConfigLog.connect([lab.nats_url()])
    jetstream = log.nats.jetstream(publish_async_max_pending=IN_FLIGHT_MAX)
    begun, first = time.monotonic(), await log.last_sequence()
    number = 0
    for tenant in range(count):
        id = f"known-{tenant}"
        for fact in facts(id, verifier, vault):
            number += 1
            commit = Commit(f"{number:032x}", "bench", "2025-01-01T00:00:00.000000+00:00", (fact,))
            headers = {"Nats-Msg-Id": commit.id}
            subject = f"{SUBJECT_PREFIX}tenant.{id}"
            await jetstream.publish_async(subject, encode(commit), headers=headers)
        if tenant % 20_000 == 19_999:
            say(f"{tenant + 1} tenants are in the log")
    await jetstream.publish_async_completed()
    stored = await log.last_sequence() - first
    await log.close()
    assert stored == number, f"{stored} of {number} commits are stored"
    return time.monotonic() - begun


def facts(id: str, verifier: str, vault: Vault) -> tuple[Fact, Fact]:
    """What the log holds of an ordinary tenant."""
    settings: dict[str, Any] = {
        "name": f"Customer {id}",
        "isolation": {"strategy": "schema"},
        "pool": {"max_connections": 5, "min_idle": 0},
        "rate_limits": {"qps_limit": 250.0, "max_query_duration": 30.0, "max_connections": 40},
        "permissions": {"allow_ddl": False, "blocked_tables": ["audit_log"]},
        "users": [{"name": USER, "scram": verifier}],
        "metadata": {"plan": "business", "region": "eu"},
    }
    made = TenantProvisioned(
        role=role_name(id),
        secret=vault.seal(f"secret-of-{id}", tenant_purpose(id)),
        node=NODE,
        fingerprint=fingerprint(Tenant(id=id, **settings)),
    )
    return TenantCreated(settings=settings), made


def known(count: int, active: int, say: Any = silent) -> dict[str, Any]:
    """MiB of the worker with `count` tenants known, `active` of them with a client that has run a
    statement."""
    text = config([tenant_table(id, pool=2) for id in active_ids(active)], budget=200)
    with laboratory(text) as lab:
        with lab.serve():
            say(f"{active} tenants are provisioned")
        filled = asyncio.run(fill(lab, count - active, say))
        begun = time.monotonic()
        with lab.serve(file=False):
            started = time.monotonic() - begun
            worker = lab.workers()[0]
            idle = memory_of(worker)
            clients = []
            for id in active_ids(active):
                where = lab.through(id)
                clients.append(
                    psycopg.connect(
                        host=where.host, port=where.port, user=where.user,
                        password=where.password, dbname=where.database, autocommit=True,
                    )
                )  # fmt: skip
            for client in clients:
                row = client.execute("SELECT current_schema").fetchone()
                assert row is not None
            time.sleep(SETTLE_SECONDS)
            busy, supervisor = memory_of(worker), memory_of(lab.supervisor())
            for client in clients:
                client.close()
        head = (lab.folder / "serve.log").read_text().splitlines()[:20]
    assert any(f"serving {count} tenants" in line for line in head), head
    return {
        "tenants": count,
        "active": active,
        "fill_seconds": round(filled, 1),
        "start_seconds": round(started, 1),
        "worker_idle_mib": round(idle["rss"] / 1024),
        "worker_active_mib": round(busy["rss"] / 1024),
        "supervisor_mib": round(supervisor["rss"] / 1024),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--spread", type=int, default=50)
    parser.add_argument("--known", type=int, default=100_000)
    parser.add_argument("--active", type=int, default=100)
    parser.add_argument("--only", type=listed(PARTS), default=PARTS)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    begin()

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    figures: dict[str, Any] = {}
    if "spread" in given.only:
        figures["spread"] = spread(given.spread, given.rounds, given.seconds, say)
    if "known" in given.only:
        figures["known"] = known(given.known, given.active, say)
    if given.json:
        print(json.dumps(figures, indent=1))
    else:
        show({"tenants": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
