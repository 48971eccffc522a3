"""The one function of libpg_query (PostgreSQL 18's own parser) that we use, called through ctypes.

The library is the one that the postgast distribution ships. Importing postgast itself would also
load a protobuf schema of all parse nodes, 20 MB that we have no use for.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Final

MESSAGE_MAX: Final = 1024  # bytes of an error message: enough to see where the error is

_NAMES: Final = ("libpg_query.so", "libpg_query.dylib", "pg_query.dll")


class _Error(ctypes.Structure):
    _fields_ = (
        ("message", ctypes.c_char_p),
        ("funcname", ctypes.c_char_p),
        ("filename", ctypes.c_char_p),
        ("lineno", ctypes.c_int),
        ("cursorpos", ctypes.c_int),
        ("context", ctypes.c_char_p),
    )


class _Result(ctypes.Structure):
    _fields_ = (
        ("parse_tree", ctypes.c_char_p),
        ("stderr_buffer", ctypes.c_char_p),
        ("error", ctypes.POINTER(_Error)),
    )


def _load() -> ctypes.CDLL:
    spec = importlib.util.find_spec("postgast")
    for folder in spec.submodule_search_locations or () if spec else ():
        for name in _NAMES:
            path = Path(folder) / name
            if path.is_file():
                library = ctypes.CDLL(str(path))
                library.pg_query_parse.argtypes = (ctypes.c_char_p,)
                library.pg_query_parse.restype = _Result
                library.pg_query_free_parse_result.argtypes = (_Result,)
                library.pg_query_free_parse_result.restype = None
                return library
    raise ImportError("libpg_query is missing: install the postgast distribution")


_LIBRARY: Final = _load()


def parse(sql: bytes) -> tuple[bytes, str, int]:
    """The parse tree in JSON, or an error: (tree, "", 0) or (b"", message, position from 1 on).

    The caller sees to it that the text is UTF-8, holds no NUL, and that the thread's stack is large
    enough for it (see analyse.py).
    """
    result = _LIBRARY.pg_query_parse(sql)
    try:
        if result.error:
            error = result.error.contents
            # An unterminated literal would come back whole.
            message = (error.message or b"syntax error")[:MESSAGE_MAX].decode(errors="replace")
            return b"", message, max(error.cursorpos, 0)
        return bytes(result.parse_tree), "", 0
    finally:
        _LIBRARY.pg_query_free_parse_result(result)
