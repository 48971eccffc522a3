"""What a client sees of a script of statements, as plain values that can be compared.

    assert transcript(proxy.dsn(), SCRIPT) == transcript(proxy.direct_dsn(), SCRIPT)

Each statement gives its status, rows, command tag, error fields, notices and the state of the
transaction; a script ends with what the server reported of its settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg import generators, pq

ERROR_FIELDS = (
    pq.DiagnosticField.SEVERITY,
    pq.DiagnosticField.SQLSTATE,
    pq.DiagnosticField.MESSAGE_PRIMARY,
    pq.DiagnosticField.MESSAGE_DETAIL,
    pq.DiagnosticField.MESSAGE_HINT,
    pq.DiagnosticField.STATEMENT_POSITION,
    pq.DiagnosticField.CONSTRAINT_NAME,
)
SETTINGS = (
    *(b"client_encoding", b"standard_conforming_strings", b"DateStyle", b"TimeZone"),
    *(b"IntervalStyle", b"application_name", b"search_path", b"server_version", b"is_superuser"),
    *(b"in_hot_standby", b"default_transaction_read_only", b"scram_iterations"),
)


def seen(result: pq.PGresult) -> tuple[Any, ...]:
    """All that one result tells."""
    status = pq.ExecStatus(result.status).name
    if result.status == pq.ExecStatus.FATAL_ERROR:
        return (status, *[result.error_field(field) for field in ERROR_FIELDS])
    columns = [
        (result.fname(i), result.ftype(i), result.fmod(i), result.fformat(i))
        for i in range(result.nfields)
    ]
    rows = [
        tuple(result.get_value(row, i) for i in range(result.nfields))
        for row in range(result.ntuples)
    ]
    return (status, result.command_status, columns, rows)


Connection = psycopg.Connection[Any]


def transcript(
    dsn: str, script: Sequence[str], how: Callable[[Connection, bytes], Any] | None = None
) -> list[Any]:
    """Run the script on a connection of its own; `how` sends one statement (default: simple).

    Nothing here blocks inside libpq: the proxy may run in a thread of the same interpreter.
    """
    connection = psycopg.connect(dsn, autocommit=True)
    notices: list[Any] = []
    connection.pgconn.notice_handler = lambda result: notices.append(
        [result.error_field(field) for field in ERROR_FIELDS]
    )
    lines: list[Any] = []
    with connection:
        for statement in script:
            answer = (how or simple)(connection, statement.encode())
            state = connection.info.transaction_status.name
            lines.append((statement, answer, state, notices[:]))
            notices.clear()
        lines.append({name: connection.pgconn.parameter_status(name) for name in SETTINGS})
    return lines


def simple(connection: Connection, statement: bytes) -> list[Any]:
    """The simple protocol: all results of the text."""
    connection.pgconn.send_query(statement)
    return results(connection)


def extended(connection: Connection, statement: bytes) -> list[Any]:
    """Unnamed Parse, Bind, Describe, Execute, Sync, with binary results."""
    connection.pgconn.send_query_params(statement, None, result_format=pq.Format.BINARY)
    return results(connection)


def named(connection: Connection, statement: bytes) -> list[Any]:
    """A named prepared statement, described, run twice and closed in SQL."""
    connection.pgconn.send_prepare(b"same name", statement)
    lines = results(connection)
    if lines[0][0] == "COMMAND_OK":
        connection.pgconn.send_describe_prepared(b"same name")
        lines += results(connection)
        for _ in range(2):
            connection.pgconn.send_query_prepared(b"same name", None)
            lines += results(connection)
    return [*lines, *simple(connection, b'DEALLOCATE "same name"')]


def results(connection: Connection) -> list[Any]:
    """What has come of one query, COPY OUT data included; COPY IN gets two lines."""
    pgconn = connection.pgconn
    lines: list[Any] = []
    for result in connection.wait(generators.execute(pgconn)):
        lines.append(seen(result))
        if result.status == pq.ExecStatus.COPY_OUT:
            while not isinstance(got := connection.wait(generators.copy_from(pgconn)), pq.PGresult):
                lines.append(bytes(got))
            lines.append(seen(got))
        elif result.status == pq.ExecStatus.COPY_IN:
            connection.wait(generators.copy_to(pgconn, b"101\tone\n102\ttwo\n"))
            lines.append(seen(connection.wait(generators.copy_end(pgconn, None))))
    return lines
