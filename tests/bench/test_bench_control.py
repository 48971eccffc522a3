"""bench/control.py on a tiny log: it runs, and its starts agree on the state."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / "bench" / "control.py"
SECONDS_MAX = 100.0

pytestmark = pytest.mark.engine


def test_a_tiny_run_tells_starts_and_commands(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--sizes", "30", "--json", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Cold start with 30 tenants, 300 events" in done.stdout
    assert "how cost grows" in done.stdout
    for line in ("the log, as a worker", "the snapshot, as a worker", "nothing else going on"):
        assert line in done.stdout
    (figures,) = tmp_path.glob("*-control.json")
    page = (tmp_path / "CONTROL.md").read_text()
    assert f"({figures.name})" in page
    assert "| 30, 300 |" in page
    assert (tmp_path / "control.svg").read_text().count("<circle") == 4
