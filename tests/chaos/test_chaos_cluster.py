"""A whole installation on three NATS nodes, one of which is in trouble, under a stream of commands.

Log, queue of commands, audit and usage are kept three times each. Killed, gone with its disk,
silent (its connections stay open, nobody answers) or cut off from the others: those carry on, and
nothing that was acknowledged is lost or done twice. TROUBLES sets how long the long form is.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_storm import Weather, check, command_storm
from support.nats_cluster import NatsCluster
from support.serving import CONFIG, Home, serving

from events import audit, bus_durable, usage
from events.stream import STREAM

pytestmark = pytest.mark.engine

WORKERS = 2
TROUBLES = int(os.environ.get("TROUBLES", "40"))
# Printed when a test fails; to see it again, write it here.
SEED = random.randrange(2**32)
STREAMS = (STREAM, bus_durable.STREAM, audit.STREAM, usage.STREAM)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[NatsCluster]:
    made = NatsCluster(tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def clustered(cluster: NatsCluster) -> Iterator[Home]:
    servers = ", ".join(f'"{url}"' for url in cluster.urls)
    events = f"[events]\nservers = [{servers}]\nreplicas = 3\nusage_interval_secs = 0.5\n"
    made = Home(CONFIG.replace("[pool]", f"{events}\n[pool]", 1))
    yield made
    made.remove()


class Trouble:
    """What can happen to one node of three; the other two must carry on."""

    def __init__(self, cluster: NatsCluster, weather: Weather, chance: random.Random) -> None:
        self.cluster = cluster
        self.weather = weather
        self.chance = chance

    def killed(self) -> None:
        node = self.chance.choice(self.cluster.nodes)
        node.kill()
        self.weather.progress(5)
        node.start()

    def leader_killed(self) -> None:
        node = self.cluster.leader(self.chance.choice(STREAMS))
        node.kill()
        self.weather.progress(5)
        node.start()

    def wiped(self) -> None:
        node = self.cluster.leader(STREAM)
        node.kill()
        self.weather.progress(5)
        node.wipe()
        node.start()

    def silent(self) -> None:
        node = self.cluster.leader(STREAM)
        node.pause()
        self.weather.progress(5)
        node.resume()

    def partitioned(self) -> None:
        """The others cannot reach it; clients can, and it still takes itself for the leader."""
        node = self.cluster.leader(STREAM)
        self.cluster.routes.cut(node.name)
        self.weather.progress(20)
        self.cluster.routes.mend()

    def healed(self) -> None:
        """One at a time: with two of three copies behind, nobody could promise anything."""
        for stream in STREAMS:
            self.cluster.wait_for_copies(stream, self.cluster.last(stream))
        self.weather.progress(5)


def survive(home: Home, cluster: NatsCluster, kinds: list[str]) -> None:
    print(f"seed {SEED}")
    with serving(home, "--workers", str(WORKERS)) as proxy:
        with (
            command_storm(home.data, cluster.urls, replicas=3, seed=SEED) as weather,
            proxy.connect() as client,
        ):
            trouble = Trouble(cluster, weather, random.Random(SEED))
            weather.progress(5)
            for kind in kinds:
                getattr(trouble, kind)()
                assert client.execute("SELECT 1").fetchone() == (1,), "queries go on"
                trouble.healed()
            weather.calm()
        told = check(home.data, cluster.urls, weather, workers=WORKERS, replicas=3)
        for what in ("events", "audit"):
            done = home.run(what, "verify", seconds=120)
            assert done.returncode == 0, (what, done.stdout, done.stderr)
            print(done.stdout.strip())
    print(told)


def test_on_two_of_three_nodes_nothing_is_lost_or_doubled(
    clustered: Home, cluster: NatsCluster
) -> None:
    survive(clustered, cluster, ["partitioned"])


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_one_node_after_another_in_trouble_under_commands(
    clustered: Home, cluster: NatsCluster
) -> None:
    chance = random.Random(SEED)
    kinds = ["killed", "leader_killed", "wiped", "silent", "partitioned"]
    kinds = chance.choices(kinds, k=TROUBLES)
    survive(clustered, cluster, kinds)
