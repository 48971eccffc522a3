"""Time to identify a tenant, each call on its own: `python bench/identify.py [--calls 200000]`.

The names are as a real listener sees them: a different tenant each time, each method, and names
that fit none. The target is 10 µs at the 99th percentile. The clock is in it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # the installed build goes first

import wire.identify
from events.installation import Identification
from wire.identify import Identifier, parse_options

Names = tuple[str, str, dict[str, str]]
TENANTS = 1000


def workload(kind: str) -> list[Names]:
    """One connection of each of many tenants."""
    tenants = [f"tenant-{number}" for number in range(TENANTS)]
    if kind == "username prefix":
        return [(f"{tenant}.appuser", "shared_db", {}) for tenant in tenants]
    if kind == "database name":
        return [("appuser", f"{tenant}_db", {}) for tenant in tenants]
    if kind == "startup option":
        return [("appuser", "shared_db", {"tenantry.tenant": tenant}) for tenant in tenants]
    return [("appuser", "shared_" + tenant, {"application_name": tenant}) for tenant in tenants]


def quantiles(times: list[int]) -> str:
    times.sort()
    picks = ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"))
    return "  ".join(f"{name} {times[int(len(times) * q)] / 1000:6.2f} µs" for q, name in picks)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=200_000)
    calls = parser.parse_args().calls
    compiled = not str(wire.identify.__file__).endswith(".py")
    print("compiled" if compiled else "interpreted")
    identifier = Identifier(Identification())
    clock = time.perf_counter_ns
    for kind in ("username prefix", "database name", "startup option", "nothing named"):
        names = workload(kind)
        times = []
        for number in range(calls):
            user, database, options = names[number % TENANTS]
            began = clock()
            identifier.identify(user, database, options)
            times.append(clock() - began)
        print(f"{kind:16} {quantiles(times)}")
    times = []
    for _ in range(calls // 10):
        began = clock()
        parse_options("-c tenantry.tenant=acme -c search_path=app")
        times.append(clock() - began)
    print(f"{'parse_options':16} {quantiles(times)}")


if __name__ == "__main__":
    main()
