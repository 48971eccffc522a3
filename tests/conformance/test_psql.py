"""psql, pg_dump, pg_restore through both modes, beside a direct connection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engines import Postgres
from support.pg_programs import run
from support.proxy import WireProxy, own_database, wire_proxy

OBJECTS = """
create table shelf (id int primary key, title text not null, price numeric default 1.5);
insert into shelf select i, 'book ' || i, i from generate_series(1, 12) i;
create index shelf_title on shelf (title);
create view cheap as select * from shelf where price < 5;
create materialized view counted as select count(*) from shelf;
create type mood as enum ('good', 'bad');
create domain positive as int check (value > 0);
create sequence tickets;
create function next_price(int) returns int language sql as 'select $1 + 1';
comment on table shelf is 'It''s a shelf';
select lo_from_bytea(4711, 'a large object');
"""
LISTS = r"""
\d
\d shelf
\d+ cheap
\dt+
\di+
\ds
\dv
\dm
\df+ next_price
\sf next_price
\sv cheap
\dT+ mood
\dD
\dn+
\dx
\dp
\ddp
\dconfig work_mem
\drds
\dC
\dO
\lo_list
\encoding
\l template1
\du no_such_role
\d nothing
"""
WORK = r"""
\set VERBOSITY default
\copy shelf to stdout csv header
create table copied (like shelf);
copy copied from stdin;
100	x	1
101	y	2
\.
copy copied from stdin;
a	b
\.
select 1 as a, 2 as b \gset
\echo :a :b
select 'select ' || i from generate_series(1, 3) i \gexec
select $1::int + $2::int \bind 3 4 \g
select id % 3 as r, id % 2 as c, count(*) from shelf group by 1, 2 order by 1, 2 \crosstabview r c
select 1 as x \gdesc
select 1/0;
\set ON_ERROR_ROLLBACK on
begin;
insert into shelf values (1, 'again');
insert into shelf values (1000, 'new');
commit;
select count(*) from shelf;
\set ON_ERROR_ROLLBACK off
\set AUTOCOMMIT off
delete from shelf;
rollback;
\set AUTOCOMMIT on
select 1 \; select 2 \; select 1/0 \; select 3;
\set FETCH_COUNT 5
select id from shelf order by id;
\set FETCH_COUNT 0
select $1::int as x \parse one
\bind_named one 5 \g
\bind_named one \g
\close_prepared one
\bind_named one 5 \g
\startpipeline
select 1 \sendpipeline
select $1 \bind 2 \sendpipeline
\syncpipeline
select 1/0 \sendpipeline
select 3 \sendpipeline
\syncpipeline
select 4 \sendpipeline
\flushrequest
\getresults
\endpipeline
do $$ begin raise notice 'heard'; end $$;
prepare q (int) as select $1 * 2;
execute q (4);
deallocate q;
explain (costs off) select * from shelf where id = 1;
vacuum shelf;
drop table copied;
"""


@pytest.fixture(scope="module", params=["session", "transaction"])
def library(request: pytest.FixtureRequest, postgres: Postgres) -> Iterator[WireProxy]:
    """A database with one object of each kind."""
    with own_database(postgres) as (server, name):
        server.execute(OBJECTS, name)
        with wire_proxy(server, database=name, mode=request.param) as made:
            yield made


@pytest.mark.parametrize("script", [LISTS, WORK], ids=["lists", "work"])
def test_psql(library: WireProxy, script: str) -> None:
    def say(dsn: str) -> list[str]:
        return run("psql", dsn, "-X", "--echo-all", text=script).splitlines()

    reset = "delete from shelf where id = 1000"
    direct = say(library.direct_dsn())
    library.server.execute(reset, library.database)
    through = say(library.dsn())
    library.server.execute(reset, library.database)
    assert through == direct
    assert len(direct) > 80


def test_psql_in_one_transaction(library: WireProxy) -> None:
    said = run(
        "psql", library.dsn(), "-X1", "-v", "ON_ERROR_STOP=1", "-c", "create table one (a int)",
        "-c", "select 1/0",
    )  # fmt: skip
    assert "division by zero" in said
    assert library.server.execute("select to_regclass('one')", library.database) == [(None,)]


def test_dump_and_restore(library: WireProxy, postgres: Postgres, tmp_path: Path) -> None:
    plain = run("pg_dump", library.dsn())
    assert "COPY public.shelf" in plain
    assert plain == run("pg_dump", library.direct_dsn())
    folder = str(tmp_path / "dump")
    assert run("pg_dump", library.dsn(), "-Fd", "-j2", "-f", folder) == ""
    with (
        own_database(postgres) as (server, name),
        wire_proxy(server, database=name, mode=library.mode) as empty,
    ):
        restored = run("pg_restore", empty.dsn(), "--no-owner", "-j2", "-d", name, folder)
        assert restored == ""
        # What pg_restore has set (search_path, for one) is not the next client's.
        with empty.connect() as client:
            assert client.execute("select count(*) from shelf").fetchone() == (12,)
        assert run("pg_dump", empty.dsn(), "--no-owner") == run(
            "pg_dump", library.direct_dsn(), "--no-owner"
        )


def test_base_backup_is_refused_clearly(library: WireProxy, tmp_path: Path) -> None:
    said = run("pg_basebackup", library.dsn(), "-D", str(tmp_path / "backup"))
    assert "replication connections are not supported" in said


def test_is_ready(library: WireProxy) -> None:
    assert "accepting connections" in run("pg_isready", library.dsn())
