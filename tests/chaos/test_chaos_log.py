"""The log's servers killed under a stream of commands: nothing acknowledged is lost or doubled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.log_storm import Weather, storm
from support.nats import NatsServer
from support.nats_cluster import NatsCluster

from events.stream import STREAM

pytestmark = pytest.mark.engine

# Printed when a test fails; to see it again, write it here.
SEED = random.randrange(2**32)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    made = NatsServer(tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[NatsCluster]:
    made = NatsCluster(tmp_path)
    made.start()
    yield made
    made.stop()


async def kills(server: NatsServer, rounds: int) -> None:
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    async with storm([server.url], seed=SEED) as weather:
        for _ in range(rounds):
            await asyncio.sleep(chance.random() * 0.2)
            server.kill()
            await asyncio.sleep(chance.random() * 0.1)
            server.start()
            await weather.progress(chance.randrange(1, 10))


def test_a_server_killed_at_random_loses_and_doubles_nothing(server: NatsServer) -> None:
    asyncio.run(kills(server, 5))


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_server_killed_hundreds_of_times(server: NatsServer) -> None:
    asyncio.run(kills(server, 300))


class Trouble:
    """What can happen to one node of three; the other two must carry on."""

    def __init__(self, cluster: NatsCluster, weather: Weather, chance: random.Random) -> None:
        self.cluster = cluster
        self.weather = weather
        self.chance = chance

    async def killed(self) -> None:
        node = self.chance.choice(self.cluster.nodes)
        node.kill()
        await self.weather.progress(5)
        node.start()

    async def leader_killed(self) -> None:
        node = await asyncio.to_thread(self.cluster.leader, STREAM)
        node.kill()
        await self.weather.progress(5)
        node.start()

    async def wiped(self) -> None:
        node = self.chance.choice(self.cluster.nodes)
        node.kill()
        await self.weather.progress(5)
        node.wipe()
        node.start()

    async def silent(self) -> None:
        node = await asyncio.to_thread(self.cluster.leader, STREAM)
        node.pause()
        await self.weather.progress(5)
        node.resume()

    async def healed(self) -> None:
        """One at a time: with two of three copies behind, nobody could promise anything."""
        last = max(self.weather.acknowledged.values())
        await asyncio.to_thread(self.cluster.wait_for_copies, STREAM, last)
        await self.weather.progress(5)


async def one_node_of_three(cluster: NatsCluster, kinds: list[str]) -> None:
    print(f"seed {SEED}")
    async with storm(cluster.urls, replicas=3, writers=2, seed=SEED) as weather:
        trouble = Trouble(cluster, weather, random.Random(SEED))
        await weather.progress(10)
        for kind in kinds:
            await getattr(trouble, kind)()
            await trouble.healed()


@pytest.mark.parametrize("kind", ["leader_killed", "wiped", "silent"])
def test_one_node_of_three_in_trouble_loses_and_doubles_nothing(
    cluster: NatsCluster, kind: str
) -> None:
    asyncio.run(one_node_of_three(cluster, [kind]))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_one_node_after_another_in_trouble(cluster: NatsCluster) -> None:
    chance = random.Random(SEED)
    kinds = chance.choices(["killed", "leader_killed", "wiped", "silent"], k=60)
    asyncio.run(one_node_of_three(cluster, kinds))
