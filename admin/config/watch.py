"""Tells when a file has changed and come to rest, for `tenantry serve --watch`.

It looks at the file's inode, size and time, several times a second: that costs microseconds, and
sees editors that write another file and rename it, mounted ConfigMaps whose link moves, and files
on network drives alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

# Between two looks. A file counts as written when two looks see the same: half a file may well be
# a valid one, with other settings.
LOOK_SECONDS: Final = 0.1

Stamp = tuple[int, int, int]


def stamp(path: Path) -> Stamp | None:
    """What tells one content from the next without reading it; None while there is no file."""
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_ino, info.st_size, info.st_mtime_ns


class FileWatch:
    """Of one file, from now on: make it before the file is read for the first time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told = self._seen = stamp(path)

    def changed(self) -> bool:
        """Whether there is another content than at the last yes, the same as at the last call. A
        file that is gone has not changed: it comes back."""
        before, self._seen = self._seen, stamp(self._path)
        if self._seen is None or self._seen == self._told or self._seen != before:
            return False
        self._told = self._seen
        return True


async def watch(file: FileWatch, changed: Callable[[], Awaitable[object]]) -> None:
    """Call `changed` after each change, until cancelled."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if file.changed():
            await changed()
