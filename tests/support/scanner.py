"""PostgreSQL's own scanner: pg_query_scan of libpg_query, its answer decoded by hand.

It answers with protobuf: ScanResult { tokens = 2: ScanToken { start = 1, end = 2, token = 4 } }.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

COMMENTS = (275, 276)  # SQL_COMMENT, C_COMMENT


class _Bytes(ctypes.Structure):
    _fields_ = (("len", ctypes.c_size_t), ("data", ctypes.POINTER(ctypes.c_char)))


class _Result(ctypes.Structure):
    _fields_ = (("pbuf", _Bytes), ("stderr_buffer", ctypes.c_char_p), ("error", ctypes.c_void_p))


def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("postgast")
    assert spec is not None
    (folder,) = spec.submodule_search_locations or ()
    (path,) = [
        each
        for each in Path(folder).iterdir()
        if "pg_query" in each.name.split(".")[0] and each.suffix in (".so", ".dylib", ".dll")
    ]
    library = ctypes.CDLL(str(path))
    library.pg_query_scan.argtypes = (ctypes.c_char_p,)
    library.pg_query_scan.restype = _Result
    library.pg_query_free_scan_result.argtypes = (_Result,)
    library.pg_query_free_scan_result.restype = None
    return library


_LIBRARY = _library()


def scan(sql: bytes) -> list[tuple[int, int, int]] | None:
    """(number of the token in gram.y, start, end) of all tokens; None where the scanner fails."""
    result = _LIBRARY.pg_query_scan(sql)
    try:
        if result.error:
            return None
        data = ctypes.string_at(result.pbuf.data, result.pbuf.len)
    finally:
        _LIBRARY.pg_query_free_scan_result(result)
    return [decoded(data[start:end]) for number, start, end in messages(data) if number == 2]


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        shift += 7
        if byte < 128:
            return value, at


def messages(data: bytes) -> list[tuple[int, int, int]]:
    """(field, start, end) of the fields of a message that have a length."""
    found = []
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        value, at = varint(data, at)
        if tag & 7 == 2:
            found.append((tag >> 3, at, at + value))
            at += value
    return found


def decoded(data: bytes) -> tuple[int, int, int]:
    fields = {1: 0, 2: 0, 4: 0}
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        fields[tag >> 3], at = varint(data, at)
    return fields[4], fields[1], fields[2]
