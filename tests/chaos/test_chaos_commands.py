"""The whole installation killed at random points under a stream of commands.

Supervisor, workers, NATS: each with SIGKILL, also all at once, also while they start. Afterwards
every acknowledged command is in the log once, every worker holds the fold of the log, the chains of
the audit verify. KILLS sets how long the long form is.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator

import psycopg
import pytest
from support.command_storm import Weather, check, command_storm
from support.serving import Home, Proxy, prepared_home, serving

from admin.engines.nats import EmbeddedNats

pytestmark = pytest.mark.engine

WORKERS = 2
KILLS = int(os.environ.get("KILLS", "300"))
# Printed when a test fails; to see it again, write it here.
SEED = random.randrange(2**32)
KINDS = ("worker", "nats", "control", "all")


@pytest.fixture
def own_home() -> Iterator[Home]:
    """Its log must hold nothing else."""
    with prepared_home() as made:
        yield made


def kill(pid: int | None) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Killer:
    """Kills parts of one installation, and starts again what has nobody who would."""

    def __init__(self, home: Home, seed: int) -> None:
        self.home = home
        self.chance = random.Random(seed)
        self.killed: Counter[str] = Counter()
        self.nats = EmbeddedNats(home.data)
        self.proxy: Proxy | None = None

    @property
    def kills(self) -> int:
        return self.killed.total()

    def one_life(self, weather: Weather, proxy: Proxy, kinds: list[str]) -> None:
        """Kill after kill, until it is the supervisor's turn or there is nothing more to do."""
        while kinds:
            # Sometimes all is well again before the next, sometimes not.
            if self.chance.random() < 0.7:
                weather.progress(self.chance.randrange(1, 8))
            time.sleep(self.chance.random() * 0.3)
            kind = kinds.pop(0)
            self.killed[kind] += 1
            if kind in ("nats", "all"):
                kill(self.nats.pid())
            if kind in ("worker", "all"):
                for pid in proxy.workers() if kind == "all" else proxy.workers()[-1:]:
                    kill(pid)
            if kind in ("control", "all"):
                proxy.process.kill()
                proxy.wait()
                return


def customers(proxy_now: list[Proxy], over: threading.Event) -> None:
    """Log in and ask, again and again: what the audit and the meters have to tell of."""
    while not over.wait(0.05):
        with (
            contextlib.suppress(psycopg.Error, IndexError),
            contextlib.closing(proxy_now[-1].connect()) as client,
        ):
            client.execute("SELECT 1")


def survive(home: Home, kinds: list[str]) -> None:
    print(f"seed {SEED}")
    killer = Killer(home, SEED)
    left = list(kinds)
    now: list[Proxy] = []
    over = threading.Event()
    asking = threading.Thread(target=customers, args=(now, over))
    with serving(home, "--workers", str(WORKERS)) as proxy:
        urls = [killer.nats.nats_url()]
    with command_storm(home.data, urls, seed=SEED) as weather:
        asking.start()
        try:
            while left:
                with serving(home, "--workers", str(WORKERS), file=False) as proxy:
                    now[:] = [proxy]
                    killer.one_life(weather, proxy, left)
            with serving(home, "--workers", str(WORKERS), file=False) as proxy:
                now[:] = [proxy]
                weather.progress(10)
                weather.calm()
                told = check(home.data, urls, weather, workers=WORKERS)
                verified(home)
        finally:
            over.set()
            asking.join()
    print(dict(killer.killed), told)


def verified(home: Home) -> None:
    """The log and the audit by the command line, as an operator would."""
    for what in ("events", "audit"):
        done = home.run(what, "verify", seconds=120)
        assert done.returncode == 0, (what, done.stdout, done.stderr)
        print(done.stdout.strip())


def test_killed_at_random_it_loses_and_doubles_nothing(own_home: Home) -> None:
    survive(own_home, ["worker", "nats", "control", "worker", "all"])


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_killed_hundreds_of_times_it_loses_and_doubles_nothing(own_home: Home) -> None:
    survive(own_home, random.Random(SEED).choices(KINDS, weights=(4, 3, 3, 1), k=KILLS))
