"""Operators who send one command after another to a running installation that is being hurt.

    with command_storm(data, urls, seed=SEED) as weather:
        ... kill something ...
        weather.progress(10)        # ten more commands are acknowledged
        weather.calm()              # all is well again: each finishes its last command
    check(data, urls, weather, workers=2)

The senders have a thread and a loop of their own, because starting and killing blocks. What has no
answer is sent again under the same id; one in ten is sent again although it has one.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from admin.console.calls import Call, Caller
from events.bus_client import CommandClient
from events.bus_durable import STREAM as COMMANDS_STREAM
from events.commands_model import ChangeTenant
from events.history import commit_of
from events.keys import KeyRing
from events.log import ConfigLog
from events.projection import Projection
from events.reader import Stored
from events.secrets import Vault
from events.stream import LogUnavailable
from events.tokens import TokenSigner
from wire.errors import ServerUnavailable

# The longest pause of a supervisor that sees the same thing die again and again is half of it.
PATIENCE = 60.0
# Shorter than a client's own patience: more is sent again, and more is sent twice.
TRY_SECONDS = 3.0
# Few, so that the senders are in each other's way.
TENANTS = ("acme", "widgetco")
# Answers that ask for the same command again.
AGAIN = ("unavailable", "unknown", "conflict", "busy", "failed")
REPEATED_SHARE = 0.1


@dataclass
class Weather:
    """What has happened so far. Written by the senders' thread, read by others."""

    over: bool = False
    # Command id → where it was said to be stored.
    acknowledged: dict[str, int] = field(default_factory=dict)
    # Command ids that the queue of durable commands has taken.
    queued: set[str] = field(default_factory=set)
    # Tenant and sender → the last number that was acknowledged there.
    last: dict[tuple[str, str], int] = field(default_factory=dict)
    again: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    senders: threading.Thread | None = None

    def calm(self) -> None:
        """Let each sender finish its last command."""
        self.over = True
        assert self.senders is not None
        self.senders.join(PATIENCE)
        assert not self.senders.is_alive(), f"the senders do not come to an end: {self.again}"
        assert not self.wrong, self.wrong

    def total(self) -> int:
        return len(self.acknowledged) + len(self.queued)

    def progress(self, commands: int) -> None:
        """Return when so many more are acknowledged."""
        wanted = self.total() + commands
        deadline = time.monotonic() + PATIENCE
        while self.total() < wanted:
            assert not self.wrong, self.wrong
            assert time.monotonic() < deadline, f"no progress: {self.again}"
            time.sleep(0.01)


class Sender:
    """Sends one command after another. `durable` leaves them in the queue."""

    def __init__(self, name: str, client: CommandClient, weather: Weather, durable: bool) -> None:
        self._name = name
        self._client = client
        self._weather = weather
        self._durable = durable

    async def run(self, seed: int) -> None:
        chance = random.Random(seed)
        number = 0
        while not self._weather.over:
            number += 1
            tenant = chance.choice(TENANTS)
            patch = {"metadata": {self._name: str(number)}}
            id = f"{self._name}-{number}"
            command = ChangeTenant(id=tenant, patch=patch, command_id=id)
            while not await self._send(command):
                await asyncio.sleep(0.05)
            self._weather.last[tenant, self._name] = number
            if chance.random() < REPEATED_SHARE:
                # Not insisted on: the answer may be lost, and a change must not come of it.
                await self._send(command)
            # The queue carries out one after the other, and what is left in it is waited for.
            await asyncio.sleep(chance.random() * (0.2 if self._durable else 0.02))

    async def _send(self, command: ChangeTenant) -> bool:
        weather = self._weather
        try:
            if self._durable:
                await self._client.store(command)
                weather.queued.add(command.command_id)
                return True
            answer = await self._client.send(command, seconds=TRY_SECONDS)
        except LogUnavailable as error:
            weather.again[type(error).__name__] += 1
            return False
        if not answer["accepted"]:
            weather.again[answer["code"]] += 1
            if answer["code"] not in AGAIN:
                weather.wrong.append(f"{command.command_id}: {answer}")
            return False
        known = weather.acknowledged.setdefault(command.command_id, answer["sequence"])
        if known != answer["sequence"]:
            weather.wrong.append(f"{command.command_id} is at {known}, and then: {answer}")
        return True


@contextmanager
def command_storm(
    data: Path, urls: Sequence[str], *, senders: int = 3, seed: int = 0, replicas: int = 1
) -> Iterator[Weather]:
    """`senders` at work, the last of them with durable commands."""
    weather = Weather()
    weather.senders = threading.Thread(
        target=lambda: asyncio.run(_blow(data, urls, senders, seed, replicas, weather)),
        name="command storm",
        daemon=True,
    )
    weather.senders.start()
    try:
        yield weather
    finally:
        weather.over = True


async def _blow(
    data: Path, urls: Sequence[str], senders: int, seed: int, replicas: int, weather: Weather
) -> None:
    token = TokenSigner(Vault.load(data)).make("storm", "operator")[0]
    logs = [
        await ConfigLog.connect(urls, replicas=replicas, name=f"storm-{number}", patience=PATIENCE)
        for number in range(senders)
    ]
    crew = [
        Sender(f"s{number}", CommandClient(log, token), weather, durable=number == senders - 1)
        for number, log in enumerate(logs)
    ]
    try:
        await asyncio.gather(*(one.run(seed + number) for number, one in enumerate(crew)))
    except Exception as error:
        weather.wrong.append(repr(error))
        raise
    finally:
        for log in logs:
            await log.close()


# --- afterwards -----------------------------------------------------------------------------------


def check(
    data: Path, urls: Sequence[str], weather: Weather, *, workers: int, replicas: int = 1
) -> dict[str, Any]:
    """Each acknowledged command is in the log once, where it was said to be; each queued one once;
    no command is there twice; no update is lost; every worker holds the fold of the log."""
    return asyncio.run(_check(data, urls, weather, workers, replicas))


async def _check(
    data: Path, urls: Sequence[str], weather: Weather, workers: int, replicas: int
) -> dict[str, Any]:
    log = await ConfigLog.connect(urls, replicas=replicas, name="check", patience=PATIENCE)
    try:
        await _queue_is_empty(log)
        times: Counter[str] = Counter()
        stored: dict[str, int] = {}
        keys = KeyRing(log, Vault.load(data))
        await keys.load()
        fold = Projection(remember_commands=False)
        keys.serve(fold)

        def take(each: Stored) -> None:
            commit = commit_of(each)
            stored[commit.id] = each.sequence
            times[commit.id] += 1
            fold.apply(each.sequence, each.kind, each.id, commit)

        await log.scan(take)
        assert {id: stored.get(id) for id in weather.acknowledged} == weather.acknowledged
        assert weather.queued <= stored.keys()
        assert max(times.values()) == 1, times.most_common(3)
        assert not fold.parked()
        for (tenant, name), number in weather.last.items():
            found = fold.tenant(tenant)
            assert found is not None
            # What a sender has been told last of is what stands there.
            told = (tenant, name, number, found.metadata)
            assert found.metadata.get(name) == str(number), told
        caller = Caller(log.connection, TokenSigner(Vault.load(data)))
        await _workers_hold(caller, log, fold, workers)
        return {"commits": len(stored), "acknowledged": weather.total(), **weather.again}
    finally:
        await log.close()


async def _queue_is_empty(log: ConfigLog) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await log.request(f"$JS.API.STREAM.INFO.{COMMANDS_STREAM}", b""))["state"][
            "messages"
        ]:
            await asyncio.sleep(0.05)


async def _workers_hold(caller: Caller, log: ConfigLog, fold: Projection, workers: int) -> None:
    """Ask all workers until they have come as far as the log; then they must have the same."""
    deadline = time.monotonic() + PATIENCE
    rows: list[dict[str, Any]] = []
    while True:
        await log.read_all(fold.position + 1, fold.apply)
        try:
            rows = (await caller.ask(Call("digest"), "storm", "viewer")).rows
        except ServerUnavailable:
            rows = []
        here = [row for row in rows if row["position"] == fold.position]
        assert all(row["digest"] == fold.digest() for row in here), (fold.position, rows)
        if len({row["worker"] for row in here}) == workers == len(rows):
            return
        assert time.monotonic() < deadline, (fold.position, rows)
        await asyncio.sleep(0.05)
