"""What a measurement ran on, and what processes cost: read from /proc, in plain numbers."""

from __future__ import annotations

import datetime
import importlib.machinery
import importlib.util
import os
import platform
import re
import resource
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

TICKS = os.sysconf("SC_CLK_TCK")
HOT_MODULE = "wire.postgres.protocol"


@dataclass(frozen=True)
class Cpu:
    """CPU seconds that processes have used: in their own code, and in the kernel for them."""

    user: float = 0.0
    system: float = 0.0

    @property
    def total(self) -> float:
        return self.user + self.system

    def __add__(self, other: Cpu) -> Cpu:
        return Cpu(self.user + other.user, self.system + other.system)

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.user - other.user, self.system - other.system)


def cpu_of(pids: list[int]) -> Cpu:
    """What `pids` have used since they began, all threads (proc(5): utime and stime)."""
    total = Cpu()
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += Cpu(int(fields[11]) / TICKS, int(fields[12]) / TICKS)
    return total


def children(pid: int) -> list[int]:
    """The living children of a process, oldest first."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return sorted(found)


def memory_of(pid: int) -> dict[str, int]:
    """KiB of one process: `rss`, and `private`, which no other process shares."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
    private = int(sizes["Private_Clean"]) + int(sizes["Private_Dirty"])
    return {"rss": int(sizes["Rss"]), "private": private}


def begin() -> None:
    """For each script's start: as many open files as we may have, for children too; and SIGTERM
    ends it as Ctrl-C does, so that what was started is stopped."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, _stop)


def _stop(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the stopping short
    raise KeyboardInterrupt


def build_home() -> Path:
    """The folder that `admin` is imported from: where the installed build is, or the sources."""
    spec = importlib.util.find_spec("admin")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.parent


def is_compiled() -> bool:
    """Whether the build that will be measured is compiled by mypyc."""
    spec = importlib.util.find_spec(HOT_MODULE)
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    return spec is not None and str(spec.origin).endswith(suffixes)


def machine() -> dict[str, object]:
    """What a reader must know to judge the figures."""
    found = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    total = re.search(r"^MemTotal:\s+(\d+)", _text("/proc/meminfo"), re.MULTILINE)
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": found[1] if found else platform.machine(),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(int(total[1]) / 2**20, 1) if total else None,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "compiled": is_compiled(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def version_of(program: Path | str) -> str:
    """The first line that `program --version` prints."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return (said.stdout or said.stderr).splitlines()[0].strip()


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
