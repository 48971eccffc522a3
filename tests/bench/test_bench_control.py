"""bench/control.py on a tiny log: it runs, and its starts agree on the state."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / "bench" / "control.py"
SECONDS_MAX = 100.0

pytestmark = pytest.mark.engine


def test_a_tiny_run_tells_starts_and_commands() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--tenants", "50", "--events", "300"],
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Cold start with 50 tenants, 300 events" in done.stdout
    for line in ("the log, as a worker", "the snapshot, as a worker", "nothing else going on"):
        assert line in done.stdout
