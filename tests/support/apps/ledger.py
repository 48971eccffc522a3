"""A ledger on SQLAlchemy: declarative models, a migration, an ordinary day; knows of no tenants."""

from __future__ import annotations

import datetime
import enum
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from psycopg import conninfo
from sqlalchemy import orm
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert

# What the second version of the ledger adds.
SECOND = (
    "ALTER TABLE account ADD COLUMN note text DEFAULT 'none' NOT NULL",
    "ALTER TABLE account ALTER COLUMN note SET DEFAULT $$n/a$$",
    "UPDATE account SET note = 'was ' || name",
    "CREATE INDEX account_note ON account (note)",
    "ALTER TABLE entry ALTER COLUMN memo TYPE varchar(200)",
)


class Base(orm.DeclarativeBase):
    """The ledger's tables."""


class Kind(enum.Enum):
    ASSET = "asset"
    DEBT = "debt"


class Currency(Base):
    """The same for everybody."""

    __tablename__ = "currency"
    code: orm.Mapped[str] = orm.mapped_column(sa.String(3), primary_key=True)


class Account(Base):
    __tablename__ = "account"
    id: orm.Mapped[int] = orm.mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(60))
    kind: orm.Mapped[Kind] = orm.mapped_column(sa.Enum(Kind, native_enum=False, length=10))
    currency: orm.Mapped[str] = orm.mapped_column(sa.ForeignKey("currency.code"))
    labels: orm.Mapped[list[str]] = orm.mapped_column(ARRAY(sa.Text), default=list)
    extra: orm.Mapped[dict[str, Any]] = orm.mapped_column(JSONB, default=dict)
    parent_id: orm.Mapped[int | None] = orm.mapped_column(sa.ForeignKey("account.id"))
    version: orm.Mapped[int] = orm.mapped_column(default=1)
    parent: orm.Mapped[Account | None] = orm.relationship(remote_side="Account.id")
    entries: orm.Mapped[list[Entry]] = orm.relationship(
        back_populates="account", cascade="all, delete-orphan", passive_deletes=True
    )
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - so it is written
    __table_args__ = (sa.UniqueConstraint("name", name="account_name"),)


class Entry(Base):
    __tablename__ = "entry"
    id: orm.Mapped[uuid.UUID] = orm.mapped_column(
        primary_key=True, server_default=sa.text("gen_random_uuid()")
    )
    account_id: orm.Mapped[int] = orm.mapped_column(
        sa.ForeignKey("account.id", ondelete="CASCADE"), index=True
    )
    day: orm.Mapped[datetime.date]
    amount: orm.Mapped[Decimal] = orm.mapped_column(sa.Numeric(12, 2))
    memo: orm.Mapped[str | None] = orm.mapped_column(sa.String(80))
    made: orm.Mapped[datetime.datetime] = orm.mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now()
    )
    account: orm.Mapped[Account] = orm.relationship(back_populates="entries")
    __table_args__ = (
        sa.CheckConstraint("amount <> 0", name="entry_amount"),
        sa.Index("entry_day", "day", sa.text("amount DESC")),
    )


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


def first(connection: sa.Connection) -> None:
    """The first migration: tables, and the currencies that there are."""
    Base.metadata.create_all(connection)
    connection.execute(sa.insert(Currency), [{"code": "EUR"}, {"code": "CHF"}])
    connection.commit()


def second(connection: sa.Connection) -> None:
    for statement in SECOND:
        connection.execute(sa.text(statement))
    connection.commit()


def opening(connection: sa.Connection) -> list[Any]:
    """The unit of work: rows that depend on each other, in batches, with keys from the server."""
    with orm.Session(connection) as session:
        root = Account(name="all", kind=Kind.ASSET, currency="EUR")
        made = [
            Account(
                name=f"a{number}",
                kind=Kind.DEBT if number % 3 else Kind.ASSET,
                currency="CHF" if number % 2 else "EUR",
                labels=["x", str(number)],
                extra={"n": number, "deep": {"even": number % 2 == 0}},
                parent=root,
            )
            for number in range(12)
        ]
        day = datetime.date(2024, 1, 1)
        for number in range(150):
            entry = Entry(
                day=day + datetime.timedelta(number), amount=Decimal(4 * number - 299) / 4
            )
            entry.memo = None if number % 5 else f"memo {number}"
            made[number % 12].entries.append(entry)
        session.add_all(made)
        session.commit()
        known = sa.select(Account.name).order_by(Account.name)
        return [all(e.id and e.made for a in made for e in a.entries), session.scalars(known).all()]


def keeping(connection: sa.Connection) -> list[Any]:
    """Changes through the session: optimistic locks, savepoints, cascades, merge, refresh."""
    seen: list[Any] = []
    with orm.Session(connection) as session:
        account = session.scalars(sa.select(Account).filter_by(name="a3")).one()
        account.extra = account.extra | {"n": 33}
        account.labels.append("lost")
        session.flush()
        seen.append(account.version)
        for wrong in (
            Account(name="a4", kind=Kind.ASSET, currency="EUR"),
            Account(name="b", kind=Kind.ASSET, currency="ZZZ"),
            Entry(account_id=account.id, day=datetime.date(2024, 1, 1), amount=Decimal(0)),
        ):
            try:
                with session.begin_nested():
                    session.add(wrong)
                    session.flush()
            except sa.exc.IntegrityError as error:
                seen.append(type(error.orig).__name__)
        locked = sa.select(Account).where(Account.name.in_(["a1", "a2"])).with_for_update()
        seen.append(sorted(each.name for each in session.scalars(locked)))
        session.delete(session.scalars(sa.select(Account).filter_by(name="a5")).one())
        session.commit()
        seen.append(session.scalar(sa.select(sa.func.count(Entry.id))))
        session.execute(
            sa.update(Entry).where(Entry.memo.is_(None)).values(memo=Entry.amount.cast(sa.String)),
            execution_options={"synchronize_session": "fetch"},
        )
        gone = sa.delete(Entry).where(Entry.amount > 70).returning(Entry.amount)
        seen.append(sorted(session.execute(gone).scalars()))
        loaded = sa.select(Account).options(
            orm.selectinload(Account.entries), orm.joinedload(Account.parent)
        )
        for each in session.scalars(loaded.order_by(Account.name)).unique():
            named = each.parent.name if each.parent else None
            seen.append([each.name, each.kind.value, named, len(each.entries), each.extra])
        session.commit()
    return seen


def core(connection: sa.Connection) -> list[Any]:
    """Statements without objects: bulk inserts that return, upserts, CTEs, windows."""
    rows = [
        {"name": f"c{n}", "kind": Kind.DEBT, "currency": "EUR", "labels": [], "extra": {}}
        for n in range(30)
    ]
    many = sa.insert(Account).returning(Account.name, sort_by_parameter_order=True)
    seen: list[Any] = [connection.execute(many, rows).scalars().all()]
    entry = {"day": datetime.date(2025, 1, 1), "amount": Decimal("1.50")}
    of = sa.select(Account.id).where(Account.name == sa.bindparam("of")).scalar_subquery()
    connection.execute(
        sa.insert(Entry).values(account_id=of), [entry | {"of": f"c{n % 3}"} for n in range(9)]
    )
    copied = sa.select(Entry.account_id, Entry.day, -Entry.amount).where(Entry.amount > 60)
    result = connection.execute(
        sa.insert(Entry).from_select(["account_id", "day", "amount"], copied)
    )
    seen.append(result.rowcount)
    rank = sa.func.row_number().over(partition_by=Entry.account_id, order_by=Entry.amount.desc())
    best = sa.select(Account.name, Entry.amount, rank.label("r")).join(Entry.account).subquery()
    seen += connection.execute(
        sa.select(best.c.name, best.c.amount).where(best.c.r <= 2).order_by(best.c.name, best.c.r)
    ).all()
    tree = sa.select(Account.id, Account.name, sa.literal(0).label("depth")).where(
        Account.parent_id.is_(None)
    )
    tree = tree.cte("tree", recursive=True)
    below = sa.select(Account.id, Account.name, tree.c.depth + 1)
    tree = tree.union_all(below.join(tree, Account.parent_id == tree.c.id))
    counted = sa.select(tree.c.depth, sa.func.count()).group_by(tree.c.depth)
    seen += connection.execute(counted.order_by(tree.c.depth)).all()
    newest = (Entry.day.desc(), Entry.amount.desc())  # the copies above share their days
    latest = sa.select(Entry.amount).where(Entry.account_id == Account.id).order_by(*newest)
    lateral = latest.limit(1).lateral("latest")
    outer = sa.select(Account.name, lateral.c.amount).outerjoin(lateral, sa.true())
    seen += connection.execute(outer.order_by(Account.name)).all()
    each = sa.func.jsonb_each_text(Account.extra).table_valued(
        "key", "value", joins_implicitly=True
    )
    seen += connection.execute(
        sa.select(Account.name, each.c.key, each.c.value)
        .where(
            (sa.literal("lost") == sa.any_(Account.labels)) | (Account.extra["n"].as_integer() < 3)
        )
        .order_by(Account.name, each.c.key)
    ).all()
    month = sa.func.date_trunc("month", Entry.day)
    sums = sa.select(month, sa.func.sum(Entry.amount), sa.func.array_agg(Entry.memo.distinct()))
    seen += connection.execute(
        sums.group_by(sa.func.grouping_sets(sa.tuple_(month), sa.tuple_())).order_by(month)
    ).all()
    connection.commit()
    return seen


def upsert(connection: sa.Connection) -> list[Any]:
    """ON CONFLICT on a key of the model's."""
    row = {"kind": Kind.DEBT, "currency": "CHF", "labels": [], "extra": {}}
    made = insert(Account).values([row | {"name": "a1"}, row | {"name": "new"}])
    made = made.on_conflict_do_update(
        index_elements=["name"], set_={"currency": made.excluded.currency, "version": 7}
    ).returning(Account.name, Account.version, Account.currency)
    seen: list[Any] = [tuple(each) for each in connection.execute(made)]
    again = insert(Account).values(row | {"name": "new"})
    seen.append(connection.execute(again.on_conflict_do_nothing()).rowcount)
    named = again.on_conflict_do_nothing(constraint="account_name")
    seen.append(connection.execute(named).rowcount)
    connection.commit()
    return seen


def streaming(connection: sa.Connection) -> list[Any]:
    """A cursor of the server's."""
    streamed = connection.execution_options(stream_results=True, yield_per=20)
    with streamed.execute(sa.select(Entry.amount).order_by(Entry.amount, Entry.day)) as result:
        return [len(part) for part in result.partitions()]


def isolation(connection: sa.Connection) -> list[Any]:
    """Each isolation level."""
    seen: list[Any] = []
    for level in ("SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED", "AUTOCOMMIT"):
        chosen = connection.execution_options(isolation_level=level)
        seen.append(chosen.execute(sa.text("show transaction_isolation")).scalar())
        seen.append(chosen.scalar(sa.select(sa.func.count(Account.id))))
        chosen.rollback()
    return seen


def looking(connection: sa.Connection) -> list[Any]:
    """Reflection."""
    looks = sa.inspect(connection)
    seen: list[Any] = [sorted(looks.get_table_names()), looks.get_view_names()]
    for table in ("account", "entry"):
        for column in looks.get_columns(table):
            kept = {key: str(value) for key, value in column.items() if key != "identity"}
            seen.append(kept)
        seen += [looks.get_pk_constraint(table), looks.get_foreign_keys(table)]
        seen += [looks.get_unique_constraints(table), looks.get_check_constraints(table)]
        seen.append(sorted(looks.get_indexes(table), key=lambda each: str(each["name"])))
        seen.append(looks.get_table_comment(table))
    again = sa.MetaData()
    again.reflect(connection)
    seen.append(sorted(str(sa.schema.CreateTable(each)) for each in again.sorted_tables))
    connection.rollback()
    return seen


DAY: Sequence[Callable[[sa.Connection], list[Any]]] = (
    *(keeping, core, upsert, streaming, isolation),
    looking,
)


async def run_async(dsn: str, driver: str) -> dict[str, Any]:
    """The same day on an asynchronous engine, and a session and a stream of its own."""
    # Needs greenlet, which SQLAlchemy does not bring by itself.
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    engine = create_async_engine(url(dsn, driver), pool_size=2)
    seen: dict[str, Any] = {}
    try:
        for step in (*DAY[:-1], isolation):
            async with engine.connect() as connection:
                seen[step.__name__] = await connection.run_sync(step)
        async with AsyncSession(engine) as session:
            session.add(Account(name="async", kind=Kind.ASSET, currency="EUR"))
            await session.commit()
            rows = await session.stream_scalars(sa.select(Account.name).order_by(Account.name))
            seen["names"] = [name async for name in rows]
    finally:
        await engine.dispose()
    return seen


def run(dsn: str, driver: str, *steps: Callable[[sa.Connection], Any]) -> dict[str, Any]:
    """Run the steps, each on a connection from SQLAlchemy's own pool; what was seen, by step."""
    engine = sa.create_engine(url(dsn, driver), pool_size=2, pool_pre_ping=True)
    seen: dict[str, Any] = {}
    try:
        for step in steps:
            with engine.connect() as connection:
                seen[step.__name__] = step(connection)
    finally:
        engine.dispose()
    return seen
