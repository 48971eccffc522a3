"""`make bench`: all measurements in one go, their tables on the terminal and in bench/results/.

    python -P bench/run.py             a short run, under ten minutes
    python -P bench/run.py --full      the sizes that count, under forty
    python -P bench/run.py --only compare,memory --json

With --only the results go to a file named after those parts, and the README is left as it is.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # the installed build goes first

from bench import bouncer, compare, many_tenants, memory  # noqa: E402
from bench.compare import listed  # noqa: E402
from bench.load import BenchError  # noqa: E402
from bench.machine import begin, build_home, machine  # noqa: E402
from bench.report import write_readme  # noqa: E402
from bench.tables import show  # noqa: E402

RESULTS = HERE / "results"
PARTS = ("compare", "memory", "tenants", "parts")
# A small measurement that takes longer than this hangs.
PART_SECONDS = 180.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    rounds: int
    seconds: int
    spread_rounds: int
    calls: int
    actors: int


SHORT = Size(rounds=3, seconds=1, spread_rounds=2, calls=50_000, actors=20_000)
FULL = Size(rounds=5, seconds=4, spread_rounds=5, calls=200_000, actors=100_000)


def small_parts(size: Size) -> dict[str, list[str]]:
    """Measurements of single parts; each is a script of its own that prints what it found."""
    return {
        "identify a tenant": ["identify.py", "--calls", str(size.calls)],
        "judge a statement": ["guard.py"],
        "replay 10,000 configuration events": ["replay.py"],
        "actors": ["actors.py", "--actors", str(size.actors)],
        "TLS connections": ["tls_memory.py"],
    }


def run_parts(size: Size, say: Say) -> dict[str, str]:
    """What each of them printed; one that fails says so there and stops no other."""
    found = {}
    for name, (script, *arguments) in small_parts(size).items():
        say(f"measuring: {name}")
        done = subprocess.run(
            [sys.executable, "-P", str(HERE / script), *arguments],
            capture_output=True,
            text=True,
            timeout=PART_SECONDS,
            env={**os.environ, "PYTHONPATH": str(build_home()), "PYTHONIOENCODING": "utf-8"},
            check=False,
        )
        trouble = (done.stderr.strip().splitlines() or ["no word"])[-1]
        found[name] = done.stdout if done.returncode == 0 else f"failed: {trouble}\n"
    return found


def measure_all(size: Size, parts: tuple[str, ...], say: Say) -> dict[str, Any]:
    """All parts in turn. Raises BenchError."""
    results: dict[str, Any] = {"machine": machine(), "full": size is FULL}
    begun = time.monotonic()
    if "compare" in parts:
        results["compare"] = compare.compare(rounds=size.rounds, seconds=size.seconds, say=say)
    if "memory" in parts:
        say("memory of idle clients")
        results["memory"] = [memory.idle_clients(2000, tls=tls) for tls in (False, True)]
    if "tenants" in parts:
        results["tenants"] = {
            "spread": many_tenants.spread(50, size.spread_rounds, max(2, size.seconds), say),
            "known": many_tenants.known(100_000, 100, say),
        }
    if "parts" in parts:
        results["parts"] = run_parts(size, say)
    results["minutes"] = round((time.monotonic() - begun) / 60, 1)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="the sizes that count")
    parser.add_argument("--only", type=listed(PARTS), default=PARTS)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write them")
    given = parser.parse_args()
    begin()

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    if not machine()["compiled"]:
        say("warning: the build is not compiled; see HACKING.md")
    if "compare" in given.only and not bouncer.program():
        say(bouncer.HOW_TO_INSTALL)
    try:
        results = measure_all(FULL if given.full else SHORT, given.only, say)
    except BenchError as error:
        say(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    given.results.mkdir(parents=True, exist_ok=True)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    whole = set(given.only) == set(PARTS)
    name = "-".join([date, str(results["machine"]["cores"]), *(() if whole else given.only)])
    path = given.results / f"{name}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    if whole:
        write_readme(results, path)
    if given.json:
        print(json.dumps(results, indent=1))
    else:
        show(results)
        for name, text in results.get("parts", {}).items():
            print(f"{name}\n{text}")
    say(f"took {results['minutes']} minutes; written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
