"""Keeps the admin API as the installation says: on, off, elsewhere, with other certificates.

It runs beside the data path and never stops it: what cannot be is told, and the rest goes on.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from admin.cli.failure import Failure
from admin.listen_port import NEXT_FREE_MAX, is_loopback, split_address
from events.installation import OFF, Installation

if TYPE_CHECKING:
    from admin.api.backend import Backend
    from admin.api.server import AdminServer
    from admin.control import Control

log = logging.getLogger("tenantry.api")

_SERVER: Final = "admin.api.server"


class AdminPort:
    """`control` is asked anew for each request. With `next_free`, a port that is taken is no
    obstacle. `say` hears where it listens, and why it does not."""

    def __init__(
        self,
        control: Callable[[], Control | None],
        say: Callable[[str], None],
        *,
        next_free: bool = False,
    ) -> None:
        self._control = control
        self._say = say
        self._next_free = next_free
        self._server: AdminServer | None = None
        self._like: tuple[object, ...] | None = None
        self._changing = asyncio.Lock()
        self._over = False

    @property
    def url(self) -> str:
        """Where it listens, "" when it does not."""
        return self._server.url if self._server is not None else ""

    async def adapt(self, installation: Installation) -> None:
        """Be as it says. Raises nothing: failures are said."""
        async with self._changing:
            like = _like(installation)
            if like == self._like or self._over:
                return
            self._like = like
            await self._stop()
            if installation.admin_address == OFF:
                return
            try:
                await self._start(installation)
            except Failure as failure:
                log.error("%s", failure)
                self._say(f"warning: {failure}")
            else:
                self._say(f"admin API on {self.url}")

    async def _start(self, installation: Installation) -> None:
        # FastAPI takes half a second to import, and clients are served meanwhile.
        server = (await asyncio.to_thread(importlib.import_module, _SERVER)).AdminServer
        backend = await asyncio.to_thread(self._backend, installation)
        host, port = split_address(installation.admin_address)
        last = min(port + NEXT_FREE_MAX, 65535) if self._next_free and port else port
        for candidate in range(port, last + 1):
            shown = f"[{host}]" if ":" in host else host
            there = installation.model_copy(update={"admin_address": f"{shown}:{candidate}"})
            made: AdminServer = server(backend, there)
            try:
                await made.start()
            except Failure:
                if candidate == last:
                    raise
                continue
            self._server = made
            return

    def _backend(self, installation: Installation) -> Backend:
        from admin.api.backend import Backend

        host, _ = split_address(installation.admin_address)
        return Backend(
            self._control,
            insecure=installation.admin_allow_insecure,
            loopback=is_loopback(host),
        )

    async def _stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop()

    async def stop(self) -> None:
        """For good."""
        self._over = True
        async with self._changing:
            await self._stop()


def _like(installation: Installation) -> tuple[object, ...]:
    """What tells one way of listening from the next, certificates renewed in place included."""
    admin = installation.admin
    stamps: list[object] = []
    for name in (admin.cert_path, admin.key_path, admin.ca_path):
        try:
            info = Path(name).stat() if name else None
        except OSError:
            info = None
        stamps.append(info and (info.st_ino, info.st_size, info.st_mtime_ns))
    return installation.admin_address, installation.admin_allow_insecure, admin, *stamps
