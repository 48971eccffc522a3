"""How long the configuration log takes to replay, and what it holds in memory.

    python bench/replay.py                    10,000 events: CPU seconds of read_all and fold
    python bench/replay.py --tenants 100000   that many tenants: memory per tenant

Starts its own nats-server. It is filled from another process, with lazy syncing, because only
reading is measured here.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.nats import NatsServer  # noqa: E402

from events.codec import encode  # noqa: E402
from events.facts import Commit, Fact, TenantChanged, TenantCreated, TenantProvisioned  # noqa: E402
from events.log import ConfigLog  # noqa: E402
from events.projection import Projection  # noqa: E402
from events.stream import SUBJECT_PREFIX  # noqa: E402

VERIFIER = "SCRAM-SHA-256$4096:" + "s" * 24 + "$" + "k" * 44 + ":" + "v" * 44
IN_FLIGHT_MAX = 500


def settings(number: int) -> dict[str, object]:
    """What a configuration file says of an ordinary tenant."""
    return {
        "name": f"Customer number {number}",
        "isolation": {"strategy": "schema", "schema_name": f"t{number}"},
        "pool": {"max_connections": 20, "min_idle": 2, "mode": "transaction"},
        "rate_limits": {"qps_limit": 250.0, "max_query_duration": 30.0, "max_connections": 40},
        "permissions": {"allow_ddl": False, "blocked_tables": ["audit_log"]},
        "users": [{"name": "appuser", "scram": VERIFIER}],
        "metadata": {"plan": "business", "region": "eu"},
    }


def facts(number: int, tenants: int) -> Fact:
    if number < tenants:
        return TenantCreated(settings=settings(number))
    if number < 2 * tenants:
        secret = "sealed:1:0badcafe:" + "x" * 80
        return TenantProvisioned(role=f"tenantry_t{number - tenants}", secret=secret, node="main")
    return TenantChanged(changes={"rate_limits": {"qps_limit": float(number)}})


async def fill(url: str, events: int, tenants: int) -> None:
    log = await ConfigLog.connect([url])
    jetstream = log.nats.jetstream(publish_async_max_pending=IN_FLIGHT_MAX)
    # Of today: command ids are forgotten after a month, and here they are to cost their memory.
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    for number in range(events):
        commit = Commit(f"{number:032x}", "bench", now, (facts(number, tenants),))
        await jetstream.publish_async(
            f"{SUBJECT_PREFIX}tenant.t{number % tenants}",
            encode(commit),
            headers={"Nats-Msg-Id": commit.id},
        )
    await jetstream.publish_async_completed()
    assert await log.last_sequence() == events
    await log.close()


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


async def replay(url: str, profile: bool) -> None:
    log = await ConfigLog.connect([url])
    gc.collect()
    memory_before = resident_mib()
    projection = Projection()
    profiler = None
    if profile:
        import cProfile

        profiler = cProfile.Profile()
        profiler.enable()
    cpu, wall = time.process_time(), time.perf_counter()
    await log.read_all(1, projection.apply)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if profiler is not None:
        import pstats

        profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
    gc.collect()
    grown = resident_mib() - memory_before
    tenants = projection.tenant_count()
    assert not projection.parked()
    print(f"events      {projection.position}")
    print(f"CPU         {cpu:.3f} s ({cpu / projection.position * 1e6:.1f} µs an event)")
    print(f"wall        {wall:.3f} s")
    print(f"tenants     {tenants}")
    print(f"memory      {resident_mib():.0f} MiB resident, of which the projection {grown:.0f} MiB")
    print(f"            ({grown * 2**20 / tenants:.0f} bytes a tenant)")
    await log.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--tenants", type=int, default=0, help="twice as many events")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--fill", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    events = 2 * options.tenants if options.tenants else options.events
    tenants = options.tenants or max(1, events // 10)
    if options.fill:
        asyncio.run(fill(options.fill, events, tenants))
        return
    with tempfile.TemporaryDirectory() as directory:
        server = NatsServer(Path(directory), sync_always=False)
        server.start()
        try:
            filling = [sys.executable, __file__, *sys.argv[1:], "--fill", server.url]
            subprocess.run(filling, check=True)
            asyncio.run(replay(server.url, options.profile))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
