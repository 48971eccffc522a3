"""Tenantry beside PgBouncer and a direct connection: throughput, CPU of the proxy, latency.

    python -P bench/compare.py [--rounds 5] [--seconds 3] [--clients 1,16,200]
                               [--modes simple,extended,prepared] [--only points,rows,latency]

points   `pgbench -S`: one row by its key
rows     1,000 rows by a range of keys
latency  `pgbench -S --rate`, at half of what the slower proxy can do: p99 from the due time

All in one run on the same PostgreSQL, one after the other in each round, so that a noisy minute
hits all of them; ratios are those of a round, and the median of the rounds is told. Tenantry has
its isolation (strategy `schema`), limits and metering on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # the installed build goes first

from bench import bouncer
from bench.lab import Lab, config, laboratory, tenant_table
from bench.load import (
    MODES,
    BenchError,
    Endpoint,
    Run,
    Work,
    initialise,
    measure,
    medians,
    p99_at_rate,
    pgbench_program,
)
from bench.machine import begin, machine, version_of
from bench.tables import show

TENANT = "acme"
POOL = 20
SCALE = 5  # 500,000 rows, 75 MB: all of it fits into PostgreSQL's own cache
ROWS = 1000
ROWS_CLIENTS = LATENCY_CLIENTS = 16
PARTS = ("points", "rows", "latency")
# Shorter runs hold too few transactions for a 99th percentile.
LATENCY_SECONDS_MIN = 2

ROWS_SCRIPT = f"""\\set aid random(1, {SCALE * 100_000 - ROWS + 1})
SELECT aid, bid, abalance FROM pgbench_accounts WHERE aid BETWEEN :aid AND :aid + {ROWS - 1};
"""

Say = Callable[[str], None]


def silent(_: str) -> None:
    return


class Comparison:
    """The endpoints to compare and how often; `cells` collects what was measured."""

    def __init__(self, endpoints: list[Endpoint], rounds: int, seconds: int, say: Say) -> None:
        self.endpoints = endpoints
        self.rounds = rounds
        self.seconds = seconds
        self.say = say

    def takes_part(self, where: Endpoint, mode: str) -> bool:
        return where.name != "pgbouncer" or mode != "prepared" or bouncer.knows_prepared()

    def in_turn(self, number: int, mode: str) -> list[Endpoint]:
        """Another one begins in each round."""
        turn = number % len(self.endpoints)
        ordered = self.endpoints[turn:] + self.endpoints[:turn]
        return [where for where in ordered if self.takes_part(where, mode)]

    def throughput(self, cells: list[tuple[str, Work]]) -> list[dict[str, Any]]:
        """Each (name, work) measured in every round."""
        runs: list[dict[str, list[Run]]] = [{} for _ in cells]
        for number in range(self.rounds):
            for (name, work), seen in zip(cells, runs, strict=True):
                for where in self.in_turn(number, work.mode):
                    run = measure(where, work, self.seconds)
                    seen.setdefault(where.name, []).append(run)
                    self.say(
                        f"round {number + 1}  {name:6} {work.mode:8} {work.clients:4} clients  "
                        f"{where.name:9} {run.tps:8.0f} tps {run.cpu:7.2f} µs"
                    )
        return [cell(name, work, seen) for (name, work), seen in zip(cells, runs, strict=True)]

    def latency(self, mode: str) -> dict[str, Any]:
        """p99 of all at one rate, in every round."""
        work = Work(mode, LATENCY_CLIENTS)
        proxies = [where for where in self.in_turn(0, mode) if where.name != "direct"]
        peaks = {where.name: measure(where, work, self.seconds).tps for where in proxies}
        rate = min(peaks.values()) / 2
        seconds = max(self.seconds, LATENCY_SECONDS_MIN)
        seen: dict[str, list[dict[str, float]]] = {}
        for number in range(self.rounds):
            for where in self.in_turn(number, mode):
                found = p99_at_rate(where, work, seconds, rate)
                seen.setdefault(where.name, []).append(found)
                self.say(
                    f"round {number + 1}  latency {mode:8} at {rate:.0f} a second  "
                    f"{where.name:9} p50 {found['p50']:.3f} ms  p99 {found['p99']:.3f} ms"
                )
        targets = {name: {**medians(rows), "rounds": rows} for name, rows in seen.items()}
        ratio = {}
        if "pgbouncer" in seen:
            for key in ("p50", "p99"):
                ratio[key] = ratio_of([row[key] for row in seen["tenantry"]],
                                      [row[key] for row in seen["pgbouncer"]])  # fmt: skip
        return {"mode": mode, "clients": LATENCY_CLIENTS, "rate": rate,
                "targets": targets, "ratio": ratio}  # fmt: skip


def cell(name: str, work: Work, seen: dict[str, list[Run]]) -> dict[str, Any]:
    """What is told of one kind of work: medians, and ratios to PgBouncer round by round."""
    rows = {
        target: [
            {"tps": run.tps, "latency_ms": run.latency, "cpu_us": run.cpu,
             "user_us": run.user, "system_us": run.system}
            for run in runs
        ]
        for target, runs in seen.items()
    }  # fmt: skip
    ratio = {}
    if "pgbouncer" in rows:
        for key in ("cpu_us", "tps"):
            ratio[key] = ratio_of([row[key] for row in rows["tenantry"]],
                                  [row[key] for row in rows["pgbouncer"]])  # fmt: skip
    return {
        "work": name,
        "mode": work.mode,
        "clients": work.clients,
        "targets": {target: {**medians(found), "rounds": found} for target, found in rows.items()},
        "ratio": ratio,
    }


def ratio_of(ours: list[float], theirs: list[float]) -> float:
    """The median of the ratios of each round."""
    return statistics.median(a / max(b, 1e-9) for a, b in zip(ours, theirs, strict=True))


@contextlib.contextmanager
def endpoints(lab: Lab, say: Say) -> Iterator[list[Endpoint]]:
    """Tenantry, PgBouncer when there is one, and the server itself, with data loaded."""
    with lab.serve():
        say("loading the data")
        initialise(lab.superuser("shared_db"), TENANT, SCALE)
        direct = lab.direct(TENANT)
        ours = lab.through(TENANT)
        if not bouncer.program():
            say(bouncer.HOW_TO_INSTALL)
            yield [ours, direct]
            return
        with bouncer.pgbouncer(direct, POOL, lab.folder / "pgbouncer") as theirs:
            yield [ours, theirs, direct]


def compare(
    *,
    rounds: int = 5,
    seconds: int = 3,
    clients: tuple[int, ...] = (1, 16, 200),
    modes: tuple[str, ...] = MODES,
    parts: tuple[str, ...] = PARTS,
    say: Say = silent,
) -> dict[str, Any]:
    """Measure `parts`; the figures as JSON can hold them. Raises BenchError."""
    with (
        laboratory(config([tenant_table(TENANT, pool=POOL)])) as lab,
        endpoints(lab, say) as compared,
    ):
        script = lab.folder / "rows.sql"
        script.write_text(ROWS_SCRIPT)
        here = Comparison(compared, rounds, seconds, say)
        work: list[tuple[str, Work]] = []
        if "points" in parts:
            work += [("points", Work(mode, count)) for count in clients for mode in modes]
        if "rows" in parts:
            work += [("rows", Work(mode, ROWS_CLIENTS, script)) for mode in modes]
        return {
            "rounds": rounds,
            "seconds": seconds,
            "versions": {
                "pgbouncer": bouncer.version_text(),
                "pgbench": version_of(pgbench_program()),
                "postgres": version_of(pgbench_program().with_name("postgres")),
            },
            "cells": here.throughput(work),
            "latency": [here.latency(mode) for mode in modes] if "latency" in parts else [],
        }


def listed(allowed: tuple[str, ...] = ()) -> Callable[[str], tuple[str, ...]]:
    """For argparse: "a,b" as a tuple, each of `allowed`."""

    def words(text: str) -> tuple[str, ...]:
        found = tuple(text.split(","))
        if allowed and not set(found) <= set(allowed):
            raise argparse.ArgumentTypeError(f"{text}: choose from {', '.join(allowed)}")
        return found

    return words


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each run, after its first")
    parser.add_argument("--clients", type=listed(), default=("1", "16", "200"))
    parser.add_argument("--modes", type=listed(MODES), default=MODES)
    parser.add_argument("--only", type=listed(PARTS), default=PARTS)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    begin()
    try:
        figures = compare(
            rounds=given.rounds,
            seconds=given.seconds,
            clients=tuple(map(int, given.clients)),
            modes=given.modes,
            parts=given.only,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    figures["machine"] = machine()
    if given.json:
        print(json.dumps(figures, indent=1))
    else:
        show({"compare": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
