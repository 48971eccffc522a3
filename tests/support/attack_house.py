"""Where attacks are run: two tenants on one server, one full of canaries, and what watches over it.

    with house(server, Combination("row", enforcement="seal")) as made:
        findings = made.run(attack)

The victim has rows, a listener, a lock, an open transaction and a large object; in all of them are
words that occur nowhere else. After each attack all that the attacker has received is searched for
them, the victim's rows are compared with what they were, and its clients must answer.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from typing import Any, Final

import psycopg
from support.attack_canaries import BESIDE, IN_ROWS, NAME, OTHER, around, canaries, differing
from support.attack_client import Attacker, Login
from support.attack_data import (
    CLEAR,
    FILL,
    SWAPPED,
    TABLE_NAMES,
    TENANT_TABLES,
)
from support.attack_ground import ME, Combination, demolish, fill_place, prepare, tenants
from support.attacks import Attack, filled
from support.engines import Postgres
from support.estate import PASSWORD, USER, Estate, estate
from support.provisioning import VAULT, login
from support.transcript import messages

from admin.provision.names import (
    row_role,
    row_role_purpose,
    seal_key_purpose,
)
from events.secrets import tenant_purpose
from wire.sql.seal import token

CHANNEL: Final = "news"
LOCK: Final = 4711
VICTIM_SECONDS: Final = 3.0  # in which the victim's statements must be through
_WORD: Final = re.compile(rb"[\w.@-]+")


class House:
    """The tenants behind their proxy, and the watch over the victim."""

    def __init__(self, made: Estate, combination: Combination) -> None:
        self.made = made
        self.combination = combination
        self.stack = contextlib.ExitStack()
        self.admins = {
            name: self.stack.enter_context(made.admin(name, options="-c row_security=off"))
            for name in (ME, OTHER)
        }
        self.places: dict[str, str] = {}
        self.attacker: Attacker
        self.before: tuple[Any, ...] = ()
        self.mine: tuple[Any, ...] = ()

    # --- the victim -------------------------------------------------------------------------------

    def open(self) -> None:
        """The victim's clients begin, and the attacker comes."""
        enter = self.stack.enter_context
        options = {"application_name": f"{BESIDE}-name"}
        self.calm, self.busy, self.ear = (
            enter(self.made.connect(OTHER, **options)) for _ in range(3)
        )
        # Its own bound, so that nothing of this depends on what attackers may set.
        self.calm.execute(f"SET lock_timeout = '{int(VICTIM_SECONDS * 1000)}ms'")
        self.ear.execute(f"LISTEN {CHANNEL}")
        self.ear.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        self._begin()
        self._places()
        self.attacker = Attacker(self._login(), self._entry)
        self.before, self.mine = self._victims(), self._attackers()

    def _begin(self) -> None:
        if not self.combination.idle:
            self.busy.execute("BEGIN")
        self.busy.execute("UPDATE orders SET extra = extra WHERE id = 7700005")
        if not self.combination.idle:
            self.busy.execute(
                f"DECLARE {BESIDE}_cursor CURSOR FOR SELECT id FROM orders ORDER BY id"
            )
        self.busy.execute(f"SELECT '{BESIDE} in the text'")
        row = self.busy.execute("SELECT pg_backend_pid()").fetchone()
        assert row is not None
        self.pid = int(row[0])
        self.busy.execute(f"SELECT '{BESIDE} in the text', 1")

    def _places(self) -> None:
        made = self.made.tenants[OTHER]
        assert made.provisioned is not None
        real = (
            self.admins[OTHER]
            .execute(
                "SELECT pid FROM pg_stat_activity WHERE query LIKE %s AND pid <> pg_backend_pid()",
                (f"%{BESIDE} in the text%",),
            )
            .fetchone()
        )
        assert real is not None, "the victim's open transaction"
        self.victim_pid = int(real[0])
        schema = {"row": "public", "schema": OTHER}.get(self.combination.strategy, "public")
        key = VAULT.derive(seal_key_purpose(made.database))
        large = (
            self.admins[OTHER]
            .execute(f"SELECT lo_from_bytea(0, '{IN_ROWS} in a large object')")
            .fetchone()
        )
        assert large is not None
        self.admins[OTHER].execute(
            f'ALTER LARGE OBJECT {large[0]} OWNER TO "{made.provisioned.role}"'
        )
        self.places = {
            "me": f"'{ME}'",
            "other": f"'{OTHER}'",
            "schema": f'"{schema}"',
            "role": f'"{made.provisioned.role}"',
            "database": made.database,
            "pid": str(self.victim_pid),
            "lo": str(large[0]),
            "token": token(key, OTHER, f"{self.victim_pid}:1", time.time()).decode(),
            "forged": token(b"k" * 32, OTHER, f"{self.victim_pid}:1", time.time()).decode(),
            "key": str(LOCK),
        }
        for name in TABLE_NAMES:
            prefix = f'"{schema}".' if self.combination.strategy == "schema" else ""
            self.places[name] = prefix + name

    # --- the attacker -----------------------------------------------------------------------------

    def _login(self) -> Login:
        made, one = self.made, self.made.tenants[ME]
        if not self.combination.direct:
            return Login("127.0.0.1", made.port, f"{ME}.{USER}", PASSWORD, ME)
        server = made.server
        if self.combination.strategy == "row" and not self.combination.dedicated:
            password = VAULT.derive(row_role_purpose(one.database)).hex()
            return Login(server.host, server.port, row_role(one.database), password, one.database)
        assert one.provisioned is not None
        password = VAULT.open(one.provisioned.secret, tenant_purpose(ME))
        return Login(server.host, server.port, one.provisioned.role, password, one.database)

    def _entry(self, attacker: Attacker) -> None:
        """What the proxy does with a shared server, where the attacker is past the proxy."""
        combination = self.combination
        if combination.direct:
            # Who may not alter a table waits for its lock all the same.
            attacker.ask("SET lock_timeout = '300ms'")
            attacker.ask("SET statement_timeout = '2s'")
        if combination.direct and combination.strategy == "row" and not combination.dedicated:
            key = VAULT.derive(seal_key_purpose(self.made.tenants[ME].database))
            backend = attacker.ask("SELECT tenantry.backend()")
            proof = token(key, ME, backend, time.time()).decode()
            assert attacker.ask(f"SELECT tenantry.enter('{proof}')") == ""

    # --- an attack --------------------------------------------------------------------------------

    def run(self, attack: Attack, ways: tuple[str, ...]) -> list[str]:
        """What the attack got that it must not get; [] for nothing."""
        if attack.only and self.combination.strategy not in attack.only:
            return []
        texts = attack.texts(self.places)
        values = tuple(filled(each, self.places).strip("'").encode() for each in attack.values)
        found: list[str] = []
        heard = b""
        if attack.call:
            heard = self.attacker.call(self._oid(attack.call), values)
        for way in ways if not attack.call else ():
            data = attack.data.encode()
            heard += self.attacker.run(way, texts, values, data, self._another)
        sent = "".join(texts).encode("utf-8", "surrogateescape") + attack.data.encode()
        sent = (sent + b"".join(values)).lower()
        found += self._watch()
        heard += self.attacker.rest()
        found += self.attacker.complaints
        told = self._told(heard, sent)
        if self._excused(attack):
            told = [each for each in told if each.startswith("row") and not self._past(attack)]
        found += told
        self.heard = heard
        self.attacker.renew()
        return [f"{self.combination}: {attack.name}: {each}" for each in found]

    def _excused(self, attack: Attack) -> bool:
        strategies = attack.excused or ("row", "schema", "database", "branch")
        return self._past(attack) or (
            bool(attack.residual) and self.combination.strategy in strategies
        )

    def _past(self, attack: Attack) -> bool:
        """Whether even a row may show, because nothing but PostgreSQL is left."""
        return self.combination.direct and "direct" in attack.excused

    def _oid(self, signature: str) -> int:
        row = self.admins[ME].execute("SELECT to_regprocedure(%s)::oid::int", (signature,))
        found = row.fetchone()
        assert found is not None, signature
        return int(found[0] or 1)

    def _another(self) -> None:
        """The victim uses the server in between."""
        self.calm.execute("SELECT count(*) FROM orders").fetchone()

    def _told(self, heard: bytes, sent: bytes) -> list[str]:
        # What only repeats the attacker's own text is no news to it.
        found = [each for word, each in canaries(heard) if word not in sent]
        if self.combination.rows_only:
            return [each for each in found if each.startswith("row")]
        if self.combination.strategy == "row" and NAME in heard.lower() and NAME not in sent:
            found.append(f"the victim's name in {around(heard.lower(), NAME)!r}")
        return found

    def _watch(self) -> list[str]:
        """What has happened to the victim."""
        found: list[str] = []
        now = self._victims()
        if now != self.before:
            found.append(f"the victim's things have changed: {differing(self.before, now)}")
            if self.combination.opened:
                self.admins[ME].execute("DELETE FROM codes")
                self._refill(OTHER)
            self.before = self._victims()
        if self.combination.rows_only:
            found += self._owners()
        else:
            found += self._alive()
        mine = self._attackers()
        if mine != self.mine:
            self._restore()
        return found

    def _owners(self) -> list[str]:
        got = self.calm.execute("SELECT string_agg(DISTINCT tenant_id, ',') FROM orders")
        row = got.fetchone()
        return [] if row == (OTHER,) or self.combination.opened else [f"the victim sees {row}"]

    def _alive(self) -> list[str]:
        found = self._owners()
        try:
            self.calm.execute("UPDATE orders SET total = total WHERE id = 7700001")
            self.calm.execute("UPDATE items SET name = name")
            self.busy.execute("SELECT 1")
            self.calm.execute(f"NOTIFY {CHANNEL}, '{BESIDE}'")
            noted = list(self.ear.notifies(timeout=VICTIM_SECONDS, stop_after=1))
            if [(each.channel, each.payload) for each in noted] != [(CHANNEL, BESIDE)]:
                found.append(f"the victim's listener heard {noted}")
        except psycopg.Error as error:
            found.append(f"the victim was disturbed: {error!r}")
        return found

    # --- another world ----------------------------------------------------------------------------

    def swap(self) -> None:
        """The victim gets other rows, and more of them."""
        admin = self.admins[OTHER]
        for name in reversed(TENANT_TABLES):
            admin.execute(f"DELETE FROM {name} WHERE tenant_id = '{OTHER}'")
        for statement in SWAPPED:
            admin.execute(statement)
        self.before = self._victims()

    def answer(self, attack: Attack) -> list[Any]:
        """What a client hears, in a form that is the same whenever it means the same."""
        self.admins[ME].execute("ALTER SEQUENCE items_id_seq RESTART WITH 1000")
        texts = attack.texts(self.places)
        values = tuple(filled(each, self.places).strip("'").encode() for each in attack.values)
        way = "extended" if values else "simple"
        data = attack.data.encode()
        heard = self.attacker.run(way, texts, values, data, lambda: None)
        self.attacker.renew()
        if self._attackers() != self.mine:
            self._restore()
        # In which order its own rows come is PostgreSQL's own affair.
        said = messages(heard)
        words = [word for kind, body in said if kind in "Dd" for word in _WORD.findall(body)]
        return [*(each for each in said if each[0] not in "Dd"), sorted(words)]

    def close(self) -> list[str]:
        """The end of all: what only shows then."""
        if self.combination.idle:
            return []
        found: list[str] = []
        try:
            rows = self.busy.execute(f"FETCH 2 FROM {BESIDE}_cursor").fetchall()
            if [row[0] for row in rows] != [7700001, 7700002]:
                found.append(f"the victim's cursor has {rows}")
            self.busy.execute("COMMIT")
            row = self.ear.execute("SELECT pg_advisory_unlock(%s)", (LOCK,)).fetchone()
            if row != (True,):
                found.append("the victim's advisory lock is gone")
        except psycopg.Error as error:
            found.append(f"the victim was disturbed: {error!r}")
        return found

    # --- the state of things ----------------------------------------------------------------------

    def _victims(self) -> tuple[Any, ...]:
        rows = self.admins[OTHER].execute(self._digest(OTHER)).fetchone()
        return tuple(rows or ())

    def _attackers(self) -> tuple[Any, ...]:
        try:
            rows = self.admins[ME].execute(self._digest(ME)).fetchone()
        except psycopg.errors.UndefinedTable:
            return ()
        return tuple(rows or ())

    def _digest(self, whose: str) -> str:
        own = f" WHERE tenant_id = '{whose}'" if self.combination.strategy == "row" else ""
        each = [
            f"(SELECT md5(string_agg(t::text, ' ' ORDER BY t::text))"
            f" FROM {self._at(whose)}{name} t{own if name in TENANT_TABLES else ''})"
            for name in TABLE_NAMES
        ]
        owned = f"'\"{self._schema(whose)}\"'::regnamespace"
        beside = [
            f"(SELECT md5(string_agg(concat(relname, relkind, relacl), ' ' ORDER BY relname))"
            f" FROM pg_class WHERE relnamespace = {owned})",
            f"(SELECT md5(string_agg(concat(proname, prosrc), ' ' ORDER BY oid))"
            f" FROM pg_proc WHERE pronamespace = {owned})",
            f"(SELECT count(*) FROM pg_operator WHERE oprnamespace = {owned})",
            f"(SELECT count(*) FROM pg_type WHERE typnamespace = {owned})",
        ]
        if whose == ME:
            beside.append(
                "(SELECT md5(string_agg(setconfig::text, ' ')) FROM pg_db_role_setting"
                " WHERE setrole = 'tenantry_acme'::regrole AND setdatabase = 0)"
            )
        else:
            beside += [
                "(SELECT md5(string_agg(concat(rolname, rolsuper), ' ' ORDER BY rolname))"
                " FROM pg_roles WHERE rolname !~ '^pg_')",
                "(SELECT md5(string_agg(setconfig::text, ' ' ORDER BY setrole, setdatabase))"
                " FROM pg_db_role_setting"
                " WHERE setrole = 0 OR setrole = 'tenantry_vexillum'::regrole)",
            ]
        return "SELECT " + ", ".join(each + beside)

    def _schema(self, whose: str) -> str:
        return whose if self.combination.strategy == "schema" else "public"

    def _at(self, whose: str) -> str:
        return f'"{self._schema(whose)}".'

    def _restore(self) -> None:
        """The attacker's rows as they were: what it did to them must not weaken later attacks."""
        admin = self.admins[ME]
        admin.execute(f"SET search_path = {self._schema(ME)}")
        if self.combination.strategy != "row":
            admin.execute(CLEAR.format(schema=self._schema(ME)))
            admin.execute("ALTER ROLE tenantry_acme RESET search_path")
            one = self.made.tenants[ME]
            assert one.provisioned is not None
            with login(self.made.server, one, one.provisioned) as own:
                fill_place(own, (ME,))
        else:
            self._refill(ME)
        self.mine = self._attackers()

    def _refill(self, whose: str) -> None:
        admin = self.admins[whose]
        for name in reversed(TENANT_TABLES):
            admin.execute(f"DELETE FROM {name} WHERE tenant_id = '{whose}'")
        for statement in FILL[whose]:
            admin.execute(statement)


@contextlib.contextmanager
def house(server: Postgres, combination: Combination) -> Iterator[House]:
    """A house on `server`, which must be the test's own; everything of it goes in the end."""
    if combination.strategy == "branch":
        server.execute("CREATE DATABASE mould")
    try:
        with estate(
            server,
            tenants(combination),
            prepare=lambda made: prepare(made, combination),
            mode=combination.mode,
            budget=8,
        ) as made:
            one = House(made, combination)
            with one.stack:
                one.open()
                try:
                    yield one
                finally:
                    one.attacker.close()
    finally:
        demolish(server)


__all__ = ["ME", "OTHER", "Combination", "House", "house"]
