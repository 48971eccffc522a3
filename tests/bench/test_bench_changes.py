"""bench/changes.py with a handful of changes: both workers obey, and it tells how soon."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / "bench" / "changes.py"
SECONDS_MAX = 120.0

pytestmark = pytest.mark.engine


def test_a_few_changes() -> None:
    done = subprocess.run(
        [sys.executable, "-P", str(SCRIPT), "--changes", "4", "--ways", "nats,sighup"],
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "How soon a change is felt" in done.stdout
    for way in ("nats", "sighup"):
        assert f'"way": "{way}", "changes": 4' in done.stderr
