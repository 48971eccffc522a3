"""SQLAlchemy with two PostgreSQL drivers through both modes, beside a direct connection."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from psycopg import conninfo
from sqlalchemy import orm
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from support.proxy import WireProxy

DRIVERS = ["psycopg", "psycopg2"]


class Base(orm.DeclarativeBase):
    """The models of this module."""


class Author(Base):
    __tablename__ = "sa_author"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(50), unique=True)
    tags: orm.Mapped[list[str]] = orm.mapped_column(ARRAY(sa.Text))
    extra: orm.Mapped[dict[str, Any]] = orm.mapped_column(JSONB)
    books: orm.Mapped[list[Book]] = orm.relationship(back_populates="author")


class Book(Base):
    __tablename__ = "sa_book"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    author_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("sa_author.id"), index=True)
    title: orm.Mapped[str]
    author: orm.Mapped[Author] = orm.relationship(back_populates="books")


def url(dsn: str, driver: str) -> sa.URL:
    given = conninfo.conninfo_to_dict(dsn)
    return sa.URL.create(
        f"postgresql+{driver}",
        username=str(given["user"]),
        password=str(given["password"]),
        host=str(given["host"]),
        port=int(str(given["port"])),
        database=str(given["dbname"]),
    )


def work(connection: sa.Connection) -> list[Any]:
    """A day in the life of an application; what it has seen."""
    seen: list[Any] = []
    Base.metadata.drop_all(connection)
    Base.metadata.create_all(connection)
    connection.commit()
    with orm.Session(connection) as session:
        people = [Author(name=f"a{n}", tags=["x", str(n)], extra={"n": n}) for n in range(30)]
        session.add_all(people)
        session.flush()
        session.add_all([Book(title=f"t{n}", author=people[n % 30]) for n in range(200)])
        session.commit()
        with pytest.raises(sa.exc.IntegrityError), session.begin_nested():
            session.add(Author(name="a1", tags=[], extra={}))
            session.flush()
        seen.append(session.scalar(sa.select(sa.func.count(Book.id))))
        query = sa.select(Author).options(orm.selectinload(Author.books)).order_by(Author.id)
        seen += [(a.name, a.tags, a.extra, len(a.books)) for a in session.scalars(query)]
        session.rollback()
    upsert = insert(Author).values(name="a1", tags=[], extra={"again": True})
    upsert = upsert.on_conflict_do_update(
        index_elements=["name"], set_={"extra": upsert.excluded.extra}
    )
    seen.append(connection.execute(upsert.returning(Author.name, Author.extra)).all())
    connection.commit()
    streamed = connection.execution_options(stream_results=True, yield_per=20)
    seen.append(sum(1 for _ in streamed.execute(sa.select(Book.title))))
    connection.rollback()
    looks = sa.inspect(connection)
    seen.append(
        [(c["name"], str(c["type"]), c["nullable"]) for c in looks.get_columns("sa_author")]
    )
    seen += [looks.get_indexes("sa_book"), looks.get_foreign_keys("sa_book")]
    seen += [looks.get_unique_constraints("sa_author"), sorted(looks.get_table_names())]
    connection.rollback()
    return seen


def isolation(connection: sa.Connection, level: str) -> Any:
    chosen = connection.execution_options(isolation_level=level)
    try:
        return chosen.execute(sa.text("show transaction_isolation")).scalar()
    finally:
        chosen.rollback()


def done_through(dsn: str, driver: str) -> list[Any]:
    """`work` and each isolation level over connections of a pool of SQLAlchemy's own."""
    engine = sa.create_engine(url(dsn, driver), pool_size=2)
    try:
        with engine.connect() as connection:
            seen = work(connection)
        for level in ("SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED", "AUTOCOMMIT"):
            with engine.connect() as connection:
                seen.append(isolation(connection, level))
    finally:
        engine.dispose()
    return seen


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_same_as_direct(proxy: WireProxy, driver: str) -> None:
    assert done_through(proxy.dsn(), driver) == done_through(proxy.direct_dsn(), driver)
