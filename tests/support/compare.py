"""What a client sees of a script of statements, as plain values that can be compared.

    assert transcript(proxy.dsn(), SCRIPT) == transcript(proxy.direct_dsn(), SCRIPT)

Each statement gives its status, rows, command tag, error fields, notices and the state of the
transaction; a script ends with what the server reported of its settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from psycopg import pq

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


def transcript(
    dsn: str, script: Sequence[str], how: Callable[[pq.PGconn, bytes], Any] | None = None
) -> list[Any]:
    """Run the script on a connection of its own; `how` sends one statement (default: simple)."""
    connection = pq.PGconn.connect(dsn.encode())
    assert connection.status == pq.ConnStatus.OK, connection.get_error_message()
    notices: list[Any] = []
    connection.notice_handler = lambda result: notices.append(
        [result.error_field(field) for field in ERROR_FIELDS]
    )
    lines: list[Any] = []
    try:
        for statement in script:
            answer = (how or simple)(connection, statement.encode())
            state = pq.TransactionStatus(connection.transaction_status).name
            lines.append((statement, answer, state, notices[:]))
            notices.clear()
        lines.append({name: connection.parameter_status(name) for name in SETTINGS})
    finally:
        connection.finish()
    return lines


def simple(connection: pq.PGconn, statement: bytes) -> list[Any]:
    """The simple protocol: all results of the text."""
    connection.send_query(statement)
    return results(connection)


def extended(connection: pq.PGconn, statement: bytes) -> list[Any]:
    """Unnamed Parse, Bind, Describe, Execute, Sync, with binary results."""
    connection.send_query_params(statement, None, result_format=pq.Format.BINARY)
    return results(connection)


def named(connection: pq.PGconn, statement: bytes) -> list[Any]:
    """A named prepared statement, described, run twice and closed in SQL."""
    lines = [seen(connection.prepare(b"same name", statement))]
    if lines[0][0] == "COMMAND_OK":
        described = connection.describe_prepared(b"same name")
        lines.append(([described.ftype(i) for i in range(described.nfields)], described.nparams))
        lines += [seen(connection.exec_prepared(b"same name", None)) for _ in range(2)]
    return [*lines, *simple(connection, b'DEALLOCATE "same name"')]


def results(connection: pq.PGconn) -> list[Any]:
    """What libpq has got of one query, COPY OUT data included; COPY IN gets two lines."""
    lines: list[Any] = []
    while (result := connection.get_result()) is not None:
        lines.append(seen(result))
        if result.status == pq.ExecStatus.COPY_OUT:
            data = []
            while (got := connection.get_copy_data(0))[0] > 0:
                data.append(bytes(got[1]))
            lines.append(data)
        elif result.status == pq.ExecStatus.COPY_IN:
            connection.put_copy_data(b"101\tone\n")
            connection.put_copy_data(b"102\ttwo\n")
            connection.put_copy_end()
    return lines
