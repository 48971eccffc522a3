"""How many server connections the tenants of one PostgreSQL server may have together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors.pool import TenantPool


class Budget:
    """How many servers the tenants of one node may have together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.pools: set[TenantPool] = set()
        # Pools that could not open a server, in the order of their asking.
        self.waiting: dict[TenantPool, None] = {}

    def take(self, pool: TenantPool) -> bool:
        """Room for one more server of `pool`, made by eviction if need be; else it waits."""
        if self.used < self.limit:
            self.used += 1
            return True
        victim: TenantPool | None = None
        for other in self.pools:
            if other.has_idle() and (victim is None or other.last_used < victim.last_used):
                victim = other
        if victim is not None:
            victim.evict()
            if self.used < self.limit:
                self.used += 1
                return True
        self.waiting[pool] = None
        return False

    def give(self) -> None:
        """A server has been closed."""
        self.used -= 1
        while self.waiting and self.used < self.limit:
            pool = next(iter(self.waiting))
            del self.waiting[pool]
            pool.grow()

    def wants(self, pool: TenantPool) -> bool:
        """Whether `pool` should give up a server that it could keep, for one that has fewer."""
        first: TenantPool | None = None
        while self.waiting:
            first = next(iter(self.waiting))
            if first.waiters:
                break
            # They have gone, or got another server.
            del self.waiting[first]
            first = None
        if first is None:
            return False
        return first is not pool and (not pool.waiters or pool.size() > first.size() + 1)
