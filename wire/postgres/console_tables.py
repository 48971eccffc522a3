"""The columns of what the console shows: PgBouncer's names and types where it has the thing.

A letter says the type: s text, i int4, q int8, N numeric. The columns of PgBouncer 1.18 stand
first and in its order, those of later versions and our own behind them, so that programs that
count columns and programs that name them both work. Figures we do not take have no column; the
few that every version has are told as 0.
"""

from __future__ import annotations

from typing import Final, NamedTuple

TEXT: Final = 25
INT4: Final = 23
INT8: Final = 20
NUMERIC: Final = 1700
_TYPES: Final = {"s": TEXT, "i": INT4, "q": INT8, "N": NUMERIC}


class Column(NamedTuple):
    name: str
    oid: int


def _columns(text: str) -> tuple[Column, ...]:
    made = []
    for word in text.split():
        name, _, letter = word.partition(":")
        made.append(Column(name, _TYPES[letter or "s"]))
    return tuple(made)


_SOCKETS: Final = """
    type user database state addr port:i local_addr local_port:i connect_time request_time
    wait:i wait_us:i close_needed:i ptr link remote_pid:i tls application_name
    prepared_statements:i id:q tenant worker
"""
_TOTALS: Final = """
    xact_count:N query_count:N bytes_received:N bytes_sent:N xact_time:N query_time:N wait_time:N
"""

SHOWN: Final[dict[str, tuple[Column, ...]]] = {
    "pools": _columns("""
        database user cl_active:i cl_waiting:i cl_active_cancel_req:i cl_waiting_cancel_req:i
        sv_active:i sv_active_cancel:i sv_being_canceled:i sv_idle:i sv_used:i sv_tested:i
        sv_login:i maxwait:i maxwait_us:i pool_mode paused:i
    """),
    "clients": _columns(_SOCKETS),
    "servers": _columns(_SOCKETS),
    "stats": _columns("""
        database total_xact_count:N total_query_count:N total_received:N total_sent:N
        total_xact_time:N total_query_time:N total_wait_time:N avg_xact_count:N avg_query_count:N
        avg_recv:N avg_sent:N avg_xact_time:N avg_query_time:N avg_wait_time:N
        total_errors:N total_refused:N total_rows:N
    """),
    "stats_totals": _columns("database " + _TOTALS),
    "stats_averages": _columns("database " + _TOTALS),
    "totals": _columns("name value:q"),
    "databases": _columns("""
        name host port:i database force_user pool_size:i min_pool_size:i reserve_pool:i pool_mode
        max_connections:i current_connections:i paused:i disabled:i
        max_client_connections:i current_client_connections:i
    """),
    "users": _columns("name pool_mode tenant"),
    "config": _columns("key value default changeable"),
    "version": _columns("version"),
    "lists": _columns("list items:i"),
    "mem": _columns("name size:i used:i free:i memtotal:q"),
    "state": _columns("key value"),
    "peers": _columns("peer_id:i host port:i pool_size:i"),
    "tenants": _columns("""
        tenant name tier isolation database state clients:i servers:i waiting:i qps_limit
        max_connections node version:q
    """),
    "workers": _columns("instance worker:i pid:i clients:i tenants:i staleness position:q"),
    "events": _columns("sequence:q time actor kind id event"),
    "audit": _columns("time kind tenant actor address outcome count:i statement reason detail"),
}
HELP: Final = """\
SHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION
SHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS|LISTS|MEM|STATE|PEERS
SHOW TENANTS|WORKERS
SHOW EVENTS|AUDIT [tenant] [number]     the newest, 50 unless a number is given
PAUSE [tenant]         hold new transactions; answers when no server is left; Ctrl-C resumes
WAIT_CLOSE [tenant]    answers when RECONNECT has replaced all servers
RESUME [tenant]        let them go on
KILL [tenant]          end clients and servers at once, and pause
KILL_CLIENT id         end one client (SHOW CLIENTS has the id)
RECONNECT [tenant]     replace servers as they become free
DISABLE|ENABLE tenant  shut a tenant out, or let it in: stored, for all proxies
RELOAD                 read the configuration file again
Settings of tenants are changed in the file, or by `tenantry tenants change`.
With [tenant] left out: all tenants, for operators who have them all ("*")."""


def columns_of(thing: str) -> tuple[Column, ...] | None:
    return SHOWN.get(thing)
