"""What an actor costs: a tell, an ask, a start, and the memory of many idle ones.

    python bench/actors.py [--actors N] [--asyncio]

Prints the median of five rounds in CPU time of this process, beside pykka's own threads for the
same exchange. Absolute times belong to the machine; the ratios are what to compare.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pykka
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from actors.reference import AsyncioActorRef
from actors.runtime import AsyncioActor

ROUNDS = 5
MESSAGES = 50_000
ASKS = 20_000
STARTS = 5_000
# Below the mailbox's capacity: the sender lets the actor work before it goes on.
BURST = 500


class Counter(AsyncioActor):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def on_receive(self, message: object) -> object:
        self.seen += 1
        return message


class AsyncCounter(AsyncioActor):
    async def on_receive(self, message: object) -> object:
        return message


class ThreadCounter(pykka.ThreadingActor):
    use_daemon_thread = True

    def on_receive(self, message: object) -> object:
        return message


async def tell(ref: AsyncioActorRef[Counter]) -> float:
    begun = time.process_time()
    for _ in range(MESSAGES // BURST):
        for number in range(BURST):
            ref.tell(number)
        await ref.ask(None)
    return (time.process_time() - begun) / MESSAGES


async def ask(ref: AsyncioActorRef[Counter]) -> float:
    begun = time.process_time()
    for number in range(ASKS):
        await ref.ask(number)
    return (time.process_time() - begun) / ASKS


async def stopped(refs: list[AsyncioActorRef[Counter]]) -> None:
    for future in [ref.stop() for ref in refs]:
        await future


async def start() -> float:
    begun = time.process_time()
    refs = [Counter.start() for _ in range(STARTS)]
    await refs[-1].ask(None)
    spent = (time.process_time() - begun) / STARTS
    await stopped(refs)
    return spent


async def median(measure: Callable[[], Awaitable[float]]) -> float:
    return statistics.median([await measure() for _ in range(ROUNDS)])


def resident() -> int:
    """Bytes of this process in memory (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


async def memory(actors: int) -> tuple[float, float]:
    """Bytes an idle actor, its reference included, and CPU seconds to stop one."""
    gc.collect()
    before = resident()
    refs = [Counter.start() for _ in range(actors)]
    await asyncio.sleep(0)
    for ref in refs:
        ref.tell(1)
    await asyncio.sleep(0)
    each = (resident() - before) / actors
    begun = time.process_time()
    await stopped(refs)
    return each, (time.process_time() - begun) / actors


def threads() -> float:
    ref = ThreadCounter.start()
    begun = time.process_time()
    for number in range(ASKS // 10):
        ref.ask(number)
    spent = (time.process_time() - begun) / (ASKS // 10)
    ref.stop()
    return spent


async def run(actors: int) -> None:
    each, stop = await memory(actors)
    counter, slow = Counter.start(), AsyncCounter.start()
    rows = [
        ("tell", await median(lambda: tell(counter))),
        ("ask", await median(lambda: ask(counter))),
        ("ask, async handler", await median(lambda: ask(slow))),  # type: ignore[arg-type]
        ("start", await median(start)),
        ("stop", stop),
        ("ask of a pykka thread", threads()),
    ]
    for name, seconds in rows:
        print(f"{name:24} {seconds * 1e6:8.2f} µs")
    print(f"{'idle actor':24} {each:8.0f} bytes, over {actors} of them")
    await asyncio.gather(*(ref.stop() for ref in (counter, slow)))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--actors", type=int, default=100_000, help="how many idle ones")
    options.add_argument("--asyncio", action="store_true", help="asyncio's own loop, not uvloop")
    chosen = options.parse_args()
    (asyncio.run if chosen.asyncio else uvloop.run)(run(chosen.actors))


if __name__ == "__main__":
    main()
