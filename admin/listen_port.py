"""The port that workers share: found free, and held while they come and go.

Each worker listens on a socket of its own (SO_REUSEPORT, socket(7)); the kernel spreads clients
over them. A bound socket that does not listen gets none, so holding one here keeps the port from
other programs when no worker runs, and costs no client.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Final

from admin.cli.failure import Failure

# Ports tried after a taken one: beyond that something else is wrong.
NEXT_FREE_MAX: Final = 100


class HeldPort:
    """`host` and `port` to listen on; `close` lets go."""

    def __init__(self, host: str, port: int, sockets: list[socket.socket]) -> None:
        self.host = host
        self.port = port
        self._sockets = sockets

    def close(self) -> None:
        for each in self._sockets:
            each.close()
        self._sockets = []


def split_address(address: str) -> tuple[str, int]:
    """`host:port` (an IPv6 host in brackets) as a pair."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hold_port(host: str, port: int, *, next_free: bool = False) -> HeldPort:
    """Hold `port` (0: any free one) on every address of `host`; with `next_free`, or the next one
    that is free. Raises Failure."""
    last = min(port + NEXT_FREE_MAX, 65535) if next_free and port else port
    for candidate in range(port, last + 1):
        try:
            return _hold(host, candidate)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and candidate < last:
                continue
            raise Failure(_explained(error, host, port)) from None
    raise AssertionError("the loop returns or raises")


def _explained(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} on {host} is taken by another program: stop it, or choose another "
            "with --port or listen_address."
        )
    if error.errno == errno.EACCES:
        return f"Port {port} needs more rights than we have: choose one above 1023."
    return f"{host}:{port} is no address to listen on ({error.strerror}): change listen_address."


def _hold(host: str, port: int) -> HeldPort:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    held: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in found:
            where = (address[0], port or address[1], *address[2:])
            # Without SO_REUSEPORT it fails when anybody listens there, another Tenantry included.
            with _socket(family, kind, protocol) as probe:
                probe.bind(where)
                port = probe.getsockname()[1]
            where = (address[0], port, *address[2:])
            keeper = _socket(family, kind, protocol)
            held.append(keeper)
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            keeper.bind(where)
            # Only binding past the remains of closed connections needed it; left on, it would let
            # others bind as long as no worker listens.
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        for each in held:
            each.close()
        raise
    return HeldPort(host, port, held)


def _socket(family: int, kind: int, protocol: int) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made
