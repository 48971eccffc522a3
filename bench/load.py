"""Runs pgbench against an endpoint, and tells what that cost the proxy in between.

The first second of a run is not measured: it holds the log-ins and what a proxy learns once.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from admin.engines.programs import packaged_programs
from bench.machine import Cpu, cpu_of

MODES = ("simple", "extended", "prepared")
# pgbench names its own trouble in few lines; the rest repeats it for each client.
TROUBLE_LINES = 5
WARM_UP_SECONDS = 1
LOGINS_PER_SECOND = 100
MOST = 0.6
LOGIN_SECONDS = 60


class BenchError(Exception):
    """A measurement could not be made; the text says why."""


def no_processes() -> list[int]:
    return []


@dataclass(frozen=True)
class Endpoint:
    """Where pgbench connects, and whose CPU time counts: `processes` gives the proxy's pids."""

    name: str
    host: str
    port: int
    user: str
    database: str
    password: str = field(repr=False)
    processes: Callable[[], list[int]] = no_processes

    def arguments(self) -> list[str]:
        return ["-h", self.host, "-p", str(self.port), "-U", self.user, self.database]

    def environment(self) -> dict[str, str]:
        return {"PGPASSWORD": self.password, "PGSSLMODE": "disable", "PATH": "/usr/bin:/bin"}


@dataclass(frozen=True)
class Work:
    """What each of `clients` does in one transaction: pgbench's own `-S`, or the script."""

    mode: str
    clients: int
    script: Path | None = None

    def arguments(self, seconds: int) -> list[str]:
        what = ["-f", str(self.script)] if self.script else ["-S"]
        threads = ["-c", str(self.clients), "-j", "1", "-T", str(seconds)]
        return ["-n", "-M", self.mode, *threads, *what]


@dataclass(frozen=True)
class Run:
    """One run; times of the CPU are µs a transaction, `latency` is pgbench's average in ms."""

    tps: float
    latency: float
    user: float
    system: float

    @property
    def cpu(self) -> float:
        return self.user + self.system


def pgbench_program() -> Path:
    """PostgreSQL 18's own, or the one on the PATH."""
    packaged = packaged_programs() / "pgbench"
    if packaged.exists():
        return packaged
    if found := shutil.which("pgbench"):
        return Path(found)
    raise BenchError("pgbench was not found: install PostgreSQL's client programs.")


def measure(where: Endpoint, work: Work, seconds: int) -> Run:
    """Run pgbench until it has warmed up and for `seconds` more. Raises BenchError."""
    # pgbench counts the log-ins as time, and does one after the other.
    warm = WARM_UP_SECONDS + work.clients // LOGINS_PER_SECOND
    for patience in (1, 4):
        found = _measure(where, work, seconds, seconds + warm * patience)
        if found is not None:
            return found
    raise BenchError(f"{where.name}: {work.clients} clients do not log in within {4 * warm} s")


def _measure(where: Endpoint, work: Work, wanted: int, seconds: int) -> Run | None:
    """One run of `seconds`, counted from pgbench's first report, a second after the log-ins; None
    when that left less than most of the seconds `wanted`."""
    command = [str(pgbench_program()), "-P", "1", *work.arguments(seconds)]
    with subprocess.Popen(
        [*command, *where.arguments()],
        env=where.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        pids, warm, begun, said = where.processes(), 0.0, Cpu(), []
        for line in process.stderr:
            found = re.match(r"progress: ([\d.]+) s, ([\d.]+) tps", line)
            if found is None:
                said.append(line.strip())
            elif not warm:
                begun = cpu_of(pids)
                warm = float(found[1]) * float(found[2])
        spent = cpu_of(pids) - begun
        output = process.stdout.read()
    check(process.returncode, said, where)
    counted = number(r"actually processed: (\d+)", output) - warm
    if not warm or counted < 1.0:
        return None
    tps = number(r"tps = ([\d.]+)", output)
    if counted / tps < MOST * wanted:
        return None
    return Run(
        tps=tps,
        latency=number(r"latency average = ([\d.]+)", output),
        user=spent.user / counted * 1e6,
        system=spent.system / counted * 1e6,
    )


def p99_at_rate(where: Endpoint, work: Work, seconds: int, rate: float) -> dict[str, float]:
    """Milliseconds from when a transaction was due to its end: `p50`, `p99`, `mean`, and
    the share of `rate` that was `reached`. Raises BenchError."""
    with tempfile.TemporaryDirectory() as name:
        logging = ["--rate", f"{rate:.0f}", "--log", f"--log-prefix={name}/log"]
        done = subprocess.run(
            [
                str(pgbench_program()),
                *logging,
                *work.arguments(seconds + WARM_UP_SECONDS),
                *where.arguments(),
            ],
            env=where.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        check(done.returncode, done.stderr.splitlines(), where)
        # client, transaction, µs, script, seconds and µs of the end, µs of the delay
        lines = [line.split() for path in Path(name).iterdir() for line in path.open()]
    ends = [int(line[4]) + int(line[5]) / 1e6 for line in lines]
    warm = min(ends) + WARM_UP_SECONDS
    taken = [int(line[2]) / 1000 for line, end in zip(lines, ends, strict=True) if end > warm]
    cuts = statistics.quantiles(taken, n=100)
    reached = len(taken) / seconds / rate
    return {"p50": cuts[49], "p99": cuts[98], "mean": statistics.mean(taken), "reached": reached}


def all_at_once(
    endpoints: list[Endpoint], work: Work, seconds: int, pids: list[int]
) -> tuple[float, Cpu]:
    """One pgbench for each endpoint, all at the same time: transactions per second of all
    together, and what `pids` spent for one (seconds). Raises BenchError."""
    begun = cpu_of(pids)
    command = [str(pgbench_program()), *work.arguments(seconds)]
    running = [
        subprocess.Popen(
            [*command, *where.arguments()],
            env=where.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for where in endpoints
    ]
    tps = count = 0.0
    for process, where in zip(running, endpoints, strict=True):
        output, said = process.communicate(timeout=seconds + LOGIN_SECONDS)
        check(process.returncode, said.splitlines(), where)
        tps += number(r"tps = ([\d.]+)", output)
        count += number(r"actually processed: (\d+)", output)
    spent = cpu_of(pids) - begun
    return tps, Cpu(spent.user / count, spent.system / count)


def initialise(where: Endpoint, schema: str, scale: int) -> None:
    """Load pgbench's tables into `schema`, as the endpoint's user. Raises BenchError."""
    done = subprocess.run(
        [str(pgbench_program()), "-i", "-q", "-s", str(scale), *where.arguments()],
        env={**where.environment(), "PGOPTIONS": f"-c search_path={schema}"},
        capture_output=True,
        text=True,
        check=False,
    )
    check(done.returncode, done.stderr.splitlines(), where)


def check(code: int, said: list[str], where: Endpoint) -> None:
    """Raise BenchError with pgbench's words when it failed."""
    if code != 0:
        words = " | ".join(said[-TROUBLE_LINES:])
        raise BenchError(f"pgbench failed on {where.name} (exit {code}): {words}")


def number(pattern: str, text: str) -> float:
    """The number that `pattern` finds in pgbench's summary. Raises BenchError."""
    found = re.search(pattern, text)
    if found is None:
        raise BenchError(f"pgbench said something unknown: {text[-500:]}")
    return float(found[1])


def medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each number."""
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}
