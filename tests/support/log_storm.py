"""Several writers and a reader of one log, for tests that hurt the servers meanwhile.

async with storm(urls) as weather:
    ... kill something ...
    await weather.progress(10)      # ten more commands are acknowledged
# at the end everything is compared with the log itself
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from events.commander import Commander
from events.commands import ChangeTenant, PutTenant
from events.history import commit_of
from events.log import ConfigLog
from events.projection import Projection
from events.reader import Stored
from events.stream import Conflict, LogUnavailable
from wire.tasks import spawn

PATIENCE = 30.0
# Few, so that the writers are in each other's way.
TENANTS = ("acme", "widgetco", "initech")


class Writer:
    """Sends one command after another; what has no answer is sent again under the same id."""

    def __init__(self, name: str, log: ConfigLog, weather: Weather) -> None:
        self.name = name
        self.log = log
        self.projection = Projection()
        self._commander = Commander(log, self.projection)
        self._weather = weather

    async def run(self, seed: int) -> None:
        chance = random.Random(seed)
        number = 0
        while not self._weather.over:
            number += 1
            id = f"{self.name}-{number}"
            patch = {"metadata": {self.name: str(number)}}
            command = ChangeTenant(id=chance.choice(TENANTS), patch=patch, command_id=id)
            while True:
                try:
                    accepted = await self._commander.execute(command, self.name)
                except LogUnavailable:
                    self._weather.unavailable += 1
                except Conflict:
                    self._weather.conflicts += 1
                else:
                    self._weather.acknowledged[id] = accepted.sequence
                    break
            await asyncio.sleep(chance.random() * 0.002)


class Weather:
    """What has happened so far."""

    def __init__(self) -> None:
        self.over = False
        self.acknowledged: dict[str, int] = {}
        self.unavailable = 0
        self.conflicts = 0

    async def progress(self, commands: int) -> None:
        """Return when so many more are acknowledged."""
        wanted = len(self.acknowledged) + commands
        async with asyncio.timeout(PATIENCE):
            while len(self.acknowledged) < wanted:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def storm(
    urls: Sequence[str], *, replicas: int = 1, writers: int = 3, seed: int = 0
) -> AsyncIterator[Weather]:
    """Writers at work, and a worker's projection that follows. At the end, when the servers must
    be well again: each acknowledged command is in the log exactly once and where it was said to
    be, no command is there twice, and every projection is the fold of the log."""
    weather = Weather()
    logs = [
        await ConfigLog.connect(urls, replicas=replicas, name=f"storm-{number}", patience=PATIENCE)
        for number in range(writers + 1)
    ]
    first = Commander(logs[0], Projection())
    for id in TENANTS:
        await first.execute(PutTenant(id=id, settings={}), "storm")
    crew = [Writer(f"w{number}", log, weather) for number, log in enumerate(logs[1:])]
    follower = Projection(remember_commands=False)
    following = spawn(logs[0].follow(1, follower.apply), name="storm follows")
    working = [spawn(one.run(seed + number), name=one.name) for number, one in enumerate(crew)]
    try:
        yield weather
        weather.over = True
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*working)
        await _check(logs[0], weather, crew, follower)
    finally:
        for task in (*working, following):
            task.cancel()
        await asyncio.gather(*working, following, return_exceptions=True)
        for log in logs:
            await log.close()


async def _check(
    log: ConfigLog, weather: Weather, crew: list[Writer], follower: Projection
) -> None:
    stored: dict[str, int] = {}
    times: Counter[str] = Counter()
    fold = Projection(remember_commands=False)

    def take(each: Stored) -> None:
        commit = commit_of(each)
        stored[commit.id] = each.sequence
        times[commit.id] += 1
        fold.apply(each.sequence, each.kind, each.id, commit)

    last = await log.scan(take)
    assert last == await log.last_sequence()
    assert {id: stored.get(id) for id in weather.acknowledged} == weather.acknowledged
    assert max(times.values()) == 1, times.most_common(3)
    async with asyncio.timeout(PATIENCE):
        while follower.position < last:
            await asyncio.sleep(0.01)
    assert follower.digest() == fold.digest()
    for one in crew:
        await one.log.read_all(one.projection.position + 1, one.projection.apply)
        assert one.projection.digest() == fold.digest()
    assert not fold.parked()
