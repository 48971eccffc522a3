"""The kinds of session state that one tenant leaves, or tries to, for the matrix of leaks.

Each is what a client does: statements one after the other, or messages of the protocol. All that
can be seen of it contains `SECRET`, or is named `leak_…`, or has a value that nothing else has.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from support.leak_ways import SECRET, begin_copy, say
from support.raw import Gone, Raw, outcome
from support.transcript import Bind, Execute, Flush, Parse, Query, Sync, one

# What random() gives first after setseed(SEED).
SEED = 0.42
Make = Callable[[Raw], str]
DOLLARS = "$leak$"


def sql(*statements: str) -> Make:
    """Statements one after the other; the outcome is the last one's."""

    def make(a: Raw) -> str:
        found = ""
        for each in statements:
            found = say(a, each)
            if found.startswith("error"):
                break
        return found

    return make


def within(command: str) -> Make:
    """A command inside a function of the operator's, where no proxy can see it."""
    return sql(f"select public.leak_run({DOLLARS}{command}{DOLLARS})")


def messages(*sent: bytes) -> Make:
    """Messages up to a Sync."""

    def make(a: Raw) -> str:
        with contextlib.suppress(Gone):
            _ = a >> b"".join(sent) + Sync
            return outcome(a.answers())
        return "gone"

    return make


def call(text: str, *values: bytes) -> Make:
    """A statement with bound values."""
    return messages(Parse("", text), Bind("", "", values), Execute())


KINDS: dict[str, Make] = {
    "nothing": sql("select 1"),
    "SET": sql("set lock_timeout = '61s'"),
    "SET among others": sql(f"select 1; set lock_timeout = '62s'; select '{SECRET}'"),
    "SET LOCAL": sql("set local lock_timeout = '63s'"),
    "set_config, literals": sql("select set_config('lock_timeout', '64s', false)"),
    "set_config, local": sql("select set_config('lock_timeout', '65s', true)"),
    "set_config, bound value": call("select set_config('lock_timeout', $1, false)", b"66s"),
    "set_config, bound name": call("select set_config($1, '67s', false)", b"lock_timeout"),
    "set_config in a function": within("select set_config('lock_timeout', '68s', false)"),
    "SET in a function": within("set lock_timeout = '69s'"),
    "session characteristics": sql(
        "set session characteristics as transaction isolation level serializable"
    ),
    "application_name": sql(f"set application_name = '{SECRET}'"),
    "statement_timeout": sql("set statement_timeout = '71s'"),
    "client_encoding": sql("set client_encoding = 'LATIN1'"),
    "TimeZone": sql("set timezone = 'Antarctica/Troll'"),
    "search_path": sql("set search_path = pg_catalog"),
    "search_path in a function": within("set search_path = pg_temp, pg_catalog"),
    "role": sql("set role leak_other"),
    "role in a function": within("set role leak_other"),
    "session_authorization": sql("set session authorization leak_other"),
    "made-up setting": sql(f"set leak.plain = '{SECRET}'"),
    "made-up setting, local": sql(f"set local leak.local = '{SECRET}'"),
    "made-up setting, set_config": sql(f"select set_config('leak.config', '{SECRET}', false)"),
    "made-up setting, set_config local": sql(f"select set_config('leak.config', '{SECRET}', true)"),
    "made-up setting in a function": within(f"set leak.function = '{SECRET}'"),
    "temporary table": sql("create temp table leak_t (x int)"),
    "temporary function": sql("create function pg_temp.leak_f() returns int return 1"),
    "temporary table in a function": within("create temp table leak_u (x int)"),
    "PREPARE": sql(f"prepare leak_q as select '{SECRET}'"),
    "PREPARE in a function": within(f"prepare leak_q as select '{SECRET}'"),
    "prepared in the protocol": messages(Parse("leak_p", f"select '{SECRET}'")),
    "unnamed statement": messages(Parse("", f"select '{SECRET}'")),
    "cursor": sql(f"begin; declare leak_c cursor for select '{SECRET}'", "fetch leak_c"),
    "cursor WITH HOLD": sql(f"declare leak_c cursor with hold for select '{SECRET}'"),
    "portal": messages(Parse("", f"select '{SECRET}'"), Bind("leak_c", "")),
    "advisory lock": sql("select pg_advisory_lock(4711)"),
    "advisory lock, shared": sql("select pg_advisory_lock_shared(4712)"),
    "advisory lock of a transaction": sql("begin; select pg_advisory_xact_lock(4713)"),
    "advisory lock in a function": within("select pg_advisory_lock(4714)"),
    "LISTEN": sql("listen leak_n"),
    "LISTEN in a function": within("listen leak_n"),
    "nextval": sql("select nextval('public.leak_s')"),
    "INSERT with a sequence": sql(f"insert into leak_items (note) values ('{SECRET}')"),
    "setseed": sql(f"select setseed({SEED})"),
    "SET SEED": sql(f"set seed = {SEED}"),
    "setseed in a function": within(f"select setseed({SEED})"),
    "large object": sql("begin; select lo_create(4715)", "select lo_open(4715, 393216)"),
    "large object in a function": within("select lo_open(lo_create(0), 393216)"),
    "open transaction": sql(f"begin; insert into leak_items (note) values ('{SECRET}')"),
    "failed transaction": sql("begin; select 1/0"),
    "transaction's settings": sql("begin isolation level serializable read only"),
    "transaction's settings, SET": sql("begin; set transaction_isolation = 'serializable'"),
    "plans of texts": sql(
        "set plan_cache_mode = force_generic_plan",
        "prepare leak_g as select string_agg(distinct tenant_id, ',') from orders",
        *("execute leak_g",) * 2,
    ),
    "plans of functions": sql(*("select public.leak_rows()",) * 7),
    "seal, SET": sql("set backtrace_functions = 'tenantry_676c6f626578'"),
    "seal, RESET": sql("reset backtrace_functions"),
    "seal in a function": within("set backtrace_functions = 'tenantry_676c6f626578'"),
    "seal, RESET ALL in a function": within("reset all"),
    "notices": sql(f"set client_min_messages = debug; select public.leak_notice('{SECRET}')"),
    "notices on their way": lambda a: _unheard(a),
    "COPY half way": begin_copy,
    "pipeline half way": lambda a: _half(a),
}


@dataclass(frozen=True)
class Exception_:
    """What is left after all, and is told in docs/security.md.

    shows  what the next client finds: a key of leak_look(), and the only values it may have there
    """

    kinds: tuple[str, ...]
    shows: str
    told: str
    same_tenant: bool = True
    values: tuple[str | None, ...] | None = None


EXCEPTIONS: dict[str, Exception_] = {
    "names": Exception_(
        (
            "made-up setting, local",
            "made-up setting, set_config",
            "made-up setting, set_config local",
        ),
        "made up",
        "The next client of the *same tenant* finds the name of a made-up setting, with nothing in"
        " it: PostgreSQL removes no such name from a session, and a new server for every other"
        " client would cost those much who use `SET LOCAL app.user` in each transaction. A server"
        " that has such a name goes to no other tenant; it is closed.",
        values=(None, ""),
    ),
    "traces": Exception_(
        ("SET SEED", "transaction's settings, SET"),
        "traces",
        "`pg_settings` tells the next client of the *same tenant* that its server has once been"
        " given a seed, or a level for one transaction, by SET: not which.",
    ),
    "names in functions": Exception_(
        ("made-up setting in a function",),
        "made up",
        "A function of the operator's, which a row tenant was allowed to call, makes up a setting:"
        " its value goes, its name stays with the server, and whoever guesses the name can tell,"
        " another tenant too. Set none in functions that tenants of shared tables may call.",
        same_tenant=False,
        values=(None, ""),
    ),
    "sequences": Exception_(
        ("nextval", "INSERT with a sequence", "open transaction"),
        "last",
        "`lastval` and `currval` answer the next client of the *same tenant* with another client's"
        " number; use `RETURNING`. To forget it would cost every client a round trip whose"
        " predecessor has used a sequence, and any INSERT may. Between tenants it is forgotten.",
    ),
}


def excuse(kind: str, shows: str, found: object, *, same: bool) -> str:
    """The exception that allows a next client to find this; "" if none does."""
    for name, each in EXCEPTIONS.items():
        if kind in each.kinds and shows == each.shows and (same or not each.same_tenant):
            values = list(found.values()) if isinstance(found, dict) else [found]
            if each.values is None or all(value in each.values for value in values):
                return name
    return ""


def _unheard(a: Raw) -> str:
    """Notices that are not waited for: they come while something else is done."""
    _ = a >> Query(f"select public.leak_notice('{SECRET}')")
    return ""


def _half(a: Raw) -> str:
    """Some of a pipeline; its Sync may come with what is asked next, or never."""
    _ = a >> one("select 1") + Parse("leak_h", f"select '{SECRET}'") + Flush
    a.message()  # it has arrived
    return ""
