"""asyncpg through the proxy: what its own test suite found."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
from support.proxy import WireProxy

Play = Callable[[asyncpg.Connection], Awaitable[None]]


def on(proxy: WireProxy, play: Play) -> None:
    """Run `play` on a connection of its own."""

    async def run() -> None:
        connection = await asyncpg.connect(
            host=proxy.host,
            port=proxy.port,
            user=proxy.user,
            password=proxy.password,
            database=proxy.database,
            ssl=False,
        )
        try:
            await play(connection)
        finally:
            await connection.close()

    asyncio.run(run())


def test_a_table_made_anew_has_its_new_columns_for_a_new_client(proxy: WireProxy) -> None:
    """No "cached plan must not change result type" for who has just prepared the statement."""

    async def first(connection: asyncpg.Connection) -> None:
        await connection.execute("drop table if exists anew; create table anew (a int)")
        assert await connection.fetch("select * from anew") == []
        await connection.execute("drop table anew; create table anew (a int, b text)")

    async def second(connection: asyncpg.Connection) -> None:
        await connection.execute("insert into anew values (1, 'x')")
        assert [tuple(row) for row in await connection.fetch("select * from anew")] == [(1, "x")]

    on(proxy, first)
    on(proxy, second)


def test_many_rows_at_once(proxy: WireProxy) -> None:
    async def play(connection: asyncpg.Connection) -> None:
        await connection.execute("drop table if exists many; create table many (a int, b text)")
        rows = [(n, "x" * 20) for n in range(20_000)]
        await connection.executemany("insert into many values ($1, $2)", rows)
        assert await connection.fetchval("select count(*) from many") == 20_000
        await connection.copy_records_to_table("many", records=rows)
        assert await connection.fetchval("select count(*) from many") == 40_000

    on(proxy, play)


def test_a_cursor_in_a_transaction(proxy: WireProxy) -> None:
    async def play(connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            cursor = await connection.cursor("select generate_series(1, 10)")
            assert [row[0] for row in await cursor.fetch(4)] == [1, 2, 3, 4]
            assert await cursor.forward(2) == 2
            assert [row[0] for row in await cursor.fetch(9)] == [7, 8, 9, 10]

    on(proxy, play)


def test_a_timeout_cancels_and_the_connection_goes_on(proxy: WireProxy) -> None:
    async def play(connection: asyncpg.Connection) -> None:
        try:
            await connection.fetch("select pg_sleep(20)", timeout=0.1)
        except TimeoutError:
            pass
        else:
            raise AssertionError("it was not cancelled")
        assert await connection.fetchval("select 1") == 1

    on(proxy, play)
