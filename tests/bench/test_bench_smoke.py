"""The comparison runs from its command line and tells what it promises; no figure is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

SCRIPT = Path(__file__).resolve().parent.parent.parent / "bench" / "compare.py"
SECONDS_MAX = 120.0


def test_one_short_round_tells_throughput_and_cpu() -> None:
    short = [
        "--rounds",
        "1",
        "--seconds",
        "1",
        "--clients",
        "1",
        "--modes",
        "simple",
        "--only",
        "points",
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, "-P", str(SCRIPT), *short],
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    (cell,) = figures["cells"]
    assert (cell["work"], cell["mode"], cell["clients"]) == ("points", "simple", 1)
    assert cell["targets"]["tenantry"]["tps"] > 0
    assert cell["targets"]["tenantry"]["cpu_us"] > 0
    assert cell["targets"]["direct"]["cpu_us"] == 0, "nothing stands between"
    if figures["versions"]["pgbouncer"]:
        assert cell["targets"]["pgbouncer"]["tps"] > 0
        assert cell["ratio"]["cpu_us"] > 0
    else:
        assert "PgBouncer was not found" in done.stderr
