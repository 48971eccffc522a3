"""Tenants on few servers, and one client after another on the same of them: a cell of the matrix.

    with house(server, POOLS["row, shared"]) as made:
        seen = made.play("SET", "commit")

Client A of one tenant makes a state and lets go. Then come the next clients: one of another tenant,
one of the same. What they see is compared with what they saw on a server that nobody had used.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import Any

from support.engines import Postgres
from support.estate import PASSWORD, USER, Estate, estate
from support.leak_grounds import NAMES, TABLES, prepare, tenants_of
from support.leak_kinds import KINDS, SEED, excuse
from support.leak_matrix import CLOSED, EXEMPT, OWN, PASSED, REFUSED, PoolKind
from support.leak_ways import HASTY, PATIENCE_SECONDS, SECRET, WAYS
from support.raw import Gone, Raw, outcome
from support.transcript import Bind, Execute, Parse, Query, Sync

REFUSALS = ("42501", "0A000", "42704", "22023", "28000")
OWNERS = "select string_agg(distinct tenant_id, ',') from orders"


@dataclass
class Seen:
    """What came of one cell."""

    kind: str
    refused: str = ""
    server: int = 0
    same: int = 0  # the server process of the same tenant's next client
    other: int = 0  # that of the other tenant's
    faults: list[str] = field(default_factory=list)
    exempt: str = ""  # key of leak_kinds.EXCEPTIONS


@dataclass
class Door:
    """Where a client of a tenant's goes."""

    host: str
    port: int
    user: str
    password: str
    database: str


class Watcher:
    """A client that looks at what others have left, and leaves nothing itself."""

    def __init__(self, door: Door, owner: str) -> None:
        self.owner = owner
        self.raw = Raw(door, door.database)
        _ = self.raw >> Parse("leak_owners", OWNERS) + Sync
        assert outcome(self.raw.answers()) == "nothing"

    def close(self) -> None:
        self.raw.close()

    def look(self, *, functions: bool) -> tuple[dict[str, Any], list[str], bytes]:
        """All that can be seen: the function's answer, other answers in order, all bytes."""
        ask = [Query(OWNERS), Bind("", "leak_owners") + Execute() + Sync]
        if functions:
            ask.append(Query("select public.leak_rows()"))
        ask += [
            Query("execute leak_q"),
            Query("execute leak_g"),
            Query("fetch all leak_c"),
            Bind("", "leak_p") + Sync,
            Bind() + Sync,
            Query("select public.leak_look()"),
        ]
        _ = self.raw >> b"".join(ask)
        heard = [self.raw.answers() for _ in ask]
        said = [outcome(one) for one in heard]
        return json.loads(said.pop()) if said[-1].startswith("{") else {}, said, b"".join(heard)


class House:
    """An estate of one kind of pool, and the clients who look."""

    def __init__(self, made: Estate, kind: PoolKind, ids: dict[str, str]) -> None:
        self.made = made
        self.kind = kind
        self.ids = ids
        self.watchers: dict[str, Watcher] = {}
        self.clean: dict[str, dict[str, Any]] = {}
        self.admin = made.server.connect()
        self.seeded = {
            row[0]
            for row in self.admin.execute(
                f"select setseed({SEED})::text union all"
                " select random()::text from generate_series(1, 40)"
            )
        }
        self.turn = itertools.count()

    # --- clients ----------------------------------------------------------------------------------

    def door(self, name: str) -> Door:
        id = self.ids[name]
        return Door("127.0.0.1", self.made.port, f"{id}.{USER}", PASSWORD, id)

    def watcher(self, name: str) -> Watcher:
        if name not in self.watchers:
            self.watchers[name] = Watcher(self.door(name), self.ids[name])
        return self.watchers[name]

    def dismiss(self, name: str) -> None:
        watcher = self.watchers.pop(name, None)
        if watcher is not None:
            watcher.close()

    def learn(self) -> None:
        """What each sees on a server that nobody has used."""
        for name in NAMES:
            self.watcher(name)
            self.end_servers()
            self.clean[name] = self.look(name)[0]
            if self.kind.mode == "session":
                self.dismiss(name)

    def pools(self) -> set[Any]:
        return {client.lease.pool for client in self.made.listener.clients}

    def servers(self) -> list[int]:
        """Process ids of all servers that are idle or lent. In the proxy's loop."""
        pools = self.pools() | self.made.budget.pools
        return [s.target.process_id for pool in pools for s in {*pool.all_idle(), *pool.lent}]

    def end_servers(self) -> None:
        for pid in self.made.call(self.servers):
            self.admin.execute("select pg_terminate_backend(%s, 5000)", (pid,))
        deadline = monotonic() + PATIENCE_SECONDS
        while self.made.call(self.servers):
            assert monotonic() < deadline, "the proxy has not seen its servers go"
            sleep(0.002)

    # --- looking ----------------------------------------------------------------------------------

    def look(self, name: str) -> tuple[dict[str, Any], list[str]]:
        """What the watcher sees, in a form that compares; and what nobody should see."""
        watcher = self.watcher(name)
        owner = watcher.owner
        by_function = self.kind.enforcement != "rewrite"
        found, said, heard = watcher.look(functions=by_function)
        faults = []
        if not found:
            return {}, [f"{name}: answers are {said}"]
        owners = said[: 2 + by_function]
        if set(owners) != {owner}:
            faults.append(f"{name}: rows of {owners}")
        gone = ["26000", "26000", "34000", "26000", "26000"]
        if said[2 + by_function :] != [f"error {code}" for code in gone]:
            faults.append(f"{name}: is answered {said}")
        if SECRET.encode() in heard or self.ids["acme"].encode() in heard.replace(
            owner.encode(), b""
        ):
            faults.append(f"{name}: hears a secret")
        seal = found.pop("seal")
        hexes = owner.encode().hex()
        if self.kind.strategy == "row" and self.kind.enforcement != "rewrite":
            if seal.split("_")[:2] != ["tenantry", hexes]:
                faults.append(f"{name}: the seal is {seal}")
        elif seal:
            faults.append(f"{name}: there is a seal, {seal}")
        if found.pop("random") in self.seeded:
            faults.append(f"{name}: draws a number that was seeded")
        return found, faults

    def compare(self, name: str, seen: Seen) -> int:
        """One more looks; the process id of its server."""
        found, faults = self.look(name)
        seen.faults += faults
        if not found:
            return 0
        if name != "globex" and self.kind.same_first:
            # Texts of one tenant's clients are prepared once for all of them, under names of ours.
            found["texts"] = 0
        for key, value in self.clean[name].items():
            if key == "pid" or found[key] == value:
                continue
            same = name != "globex"
            excused = excuse(seen.kind, key, found[key], same=same)
            if excused:
                seen.exempt = excused
            else:
                seen.faults.append(f"{name}: {key} is {found[key]}, not {value}")
        return int(found["pid"])

    # --- a cell -----------------------------------------------------------------------------------

    def play(self, kind: str, way: str) -> Seen:
        who = "hasty" if way in HASTY else "acme"
        if self.kind.mode != "session":
            for name in ("globex", who):
                self.watcher(name)
        scene = Playing(self, kind, who)
        seen = scene.seen
        try:
            stays = WAYS[way](scene)
            self.let_go(scene, stays)
            same = scene.who
            for name in (same, "globex") if self.kind.same_first else ("globex", same):
                pid = self.compare(name, seen)
                if name == same:
                    seen.same = pid
                else:
                    seen.other = pid
            if stays and not scene.left:
                self.still_itself(scene)
        except BaseException:
            # What they have not read yet belongs to this cell.
            for name in NAMES:
                self.dismiss(name)
            raise
        finally:
            scene.a.close()
            if self.kind.mode == "session":
                for name in NAMES:
                    self.dismiss(name)
        self.gone_or_reused(seen)
        if seen.faults or seen.exempt:
            # It is this cell's, not the next one's too.
            self.end_servers()
        return seen

    def letter(self, seen: Seen) -> str:
        """The outcome of a cell as in LETTERS. Raises AssertionError when something leaks."""
        assert not seen.faults, seen.faults
        if not self.kind.shared:
            assert seen.other != seen.server or not seen.server, "tenants have met on a server"
        if seen.exempt:
            return EXEMPT
        if seen.refused:
            return REFUSED
        if seen.server not in (seen.same, seen.other):
            return CLOSED
        return PASSED if self.kind.shared else OWN

    def let_go(self, scene: Playing, stays: bool) -> None:
        """A has let its server go, or must leave because its session holds it."""
        if stays and self.kind.mode == "session":
            scene.leave()
        deadline = monotonic() + PATIENCE_SECONDS
        while self.holding(scene.a.pid):
            if monotonic() > deadline:
                raise AssertionError("a server is held by a client that has gone")
            if stays and not scene.left and self.waits_for_a(scene.a.pid):
                scene.leave()
            sleep(0.002)

    def holding(self, pid: int) -> bool:
        watching = {watcher.raw.pid for watcher in self.watchers.values()}

        def held() -> bool:
            for client in self.made.listener.clients:
                if client.process_id == pid and client.server is not None:
                    return True
            return any(
                server.cancels
                or (server.client is not None and server.client.process_id not in watching)
                for pool in self.pools() | self.made.budget.pools
                for server in pool.lent
            )

        return bool(self.made.call(held))

    def waits_for_a(self, pid: int) -> bool:
        """Nothing of A's is under way: only A itself can end what holds its server."""

        def rests() -> bool:
            for client in self.made.listener.clients:
                if client.process_id == pid and client.server is not None:
                    server = client.server
                    return server.outstanding() == 0 or server.copying or not server.synced
            return False

        return bool(self.made.call(rests))

    def still_itself(self, scene: Playing) -> None:
        """The client that has stayed sees its own rows, whatever it has done."""
        a, owner = scene.a, self.ids[scene.who]
        mark = f"own rows {next(self.turn)}: "
        schema = owner if self.kind.strategy == "schema" else "public"
        table = f'"{schema}".orders'
        ask = f"select '{mark}' || string_agg(distinct tenant_id, ',') from {table}"
        heard = b""
        with contextlib.suppress(Gone, BrokenPipeError, ConnectionResetError):
            _ = a >> Sync + Query("rollback") + Query(ask)
            while mark.encode() not in heard:
                kind, body = a.message()
                heard = body if kind == "D" else b""
            said = heard[heard.index(mark.encode()) + len(mark) :].decode()
            # A seal that a function has broken lets nobody see anything.
            if said not in (owner, ""):
                scene.seen.faults.append(f"{scene.who}: it sees rows of {said}")

    def gone_or_reused(self, seen: Seen) -> None:
        """The server is one that a watcher has had, or its process has ended."""
        if not seen.server or seen.server in (seen.same, seen.other):
            return
        deadline = monotonic() + PATIENCE_SECONDS
        while self.admin.execute(
            "select 1 from pg_stat_activity where pid = %s", (seen.server,)
        ).fetchone():
            if monotonic() > deadline:
                seen.faults.append("a server that nobody has is still there")
                return
            sleep(0.005)


class Playing:
    """One cell while it is played: what ways have at hand (see leak_ways.Scene)."""

    def __init__(self, house: House, kind: str, who: str) -> None:
        self.house = house
        self.who = who
        self.kind = kind
        self.left = False
        self.seen = Seen(kind)
        door = house.door(who)
        self.a = Raw(door, door.database)

    def make(self) -> None:
        found = KINDS[self.kind](self.a)
        if found.startswith("error") and found[6:] in REFUSALS:
            self.seen.refused = found[6:]
        self.seen.server = self.house.made.call(self.server)

    def server(self) -> int:
        """The process on which A's state is, as far as the proxy knows. In the proxy's loop."""
        for client in self.house.made.listener.clients:
            if client.process_id == self.a.pid:
                server = client.server
                idle = client.lease.pool.all_idle()
                if server is None and idle:
                    server = idle[-1]
                return server.target.process_id if server is not None else 0
        return 0

    def leave(self) -> None:
        self.left = True
        self.a.close()

    def terminate(self) -> None:
        self.house.admin.execute("select pg_terminate_backend(%s, 5000)", (self.seen.server,))

    def change(self) -> None:
        made, id = self.house.made, self.house.ids[self.who]
        before = made.tenants[id]
        limits = before.rate_limits
        burst = 3.0 if limits.burst_multiplier != 3.0 else 2.0
        made.change(
            before.model_copy(
                update={"rate_limits": limits.model_copy(update={"burst_multiplier": burst})}
            )
        )

    def intrude(self) -> None:
        door = self.house.door("intruder")
        # While A keeps its server there is no room.
        with contextlib.suppress(PermissionError):
            client = Raw(door, door.database)
            client.ask("select 1")
            client.close()

    def neighbour(self, then: Callable[[], None]) -> None:
        house = self.house
        if house.kind.mode == "session":
            # Who has logged in has a server already.
            then()
            return
        raw = house.watcher(self.who if house.kind.same_first else "globex").raw
        _ = raw >> Query("select 1")
        then()
        house.let_go(self, True)
        raw.answers()


@contextlib.contextmanager
def house(server: Postgres, kind: PoolKind) -> Iterator[House]:
    """Provision, serve, learn what is clean."""
    ids = {name: f"{name}-{kind.slug}" for name in (*NAMES, "intruder")}
    if not server.execute("select 1 from pg_roles where rolname = 'leak_other'"):
        server.execute("create role leak_other")
    with estate(
        server,
        tenants_of(kind, ids),
        prepare=lambda made: prepare(made, kind, ids),
        budget=kind.budget,
    ) as made:
        if kind.strategy != "row":
            for name in NAMES:
                with made.connect(ids[name]) as own:
                    own.execute(TABLES.format(default=f"DEFAULT '{ids[name]}'"))
                    own.execute(
                        "INSERT INTO orders (id, note) SELECT i, 'x' FROM generate_series(1, 9) i"
                    )
        built = House(made, kind, ids)
        try:
            built.learn()
            yield built
        finally:
            for name in list(built.watchers):
                built.dismiss(name)
            built.admin.close()
