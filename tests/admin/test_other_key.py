"""A process whose key is not the log's is turned away before it can change anything."""

from __future__ import annotations

import pytest
from support.desk import VAULT, Desk, at_desk
from support.engines import Nats

from admin.control import Control
from events.commands import PutInstallation
from events.secrets import KEY_BYTES, SecretError, Vault, node_purpose

OTHER = Vault(bytes(KEY_BYTES))


def test_by_the_keys_of_tenants(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        answer = await desk.ask("acme.create", {"settings": {"name": "Acme Corp"}})
        assert answer["accepted"]
        before = await desk.stored()
        with pytest.raises(SecretError, match=r"copy secret\.key from a data directory"):
            await Control.open([nats_server.url], OTHER)
        assert await desk.stored() == before
        await (await Control.open([nats_server.url], VAULT)).close()

    at_desk(nats_server, test)


def test_by_the_password_of_a_node(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        password = VAULT.seal("secret", node_purpose("db", 5432, "postgres"))
        nodes = [{"host": "db", "password": password}]
        await desk.control.commander.execute(PutInstallation(settings={"nodes": nodes}), "test")
        with pytest.raises(SecretError, match=f"sealed with key {VAULT.key_id}"):
            await Control.open([nats_server.url], OTHER)

    at_desk(nats_server, test)


def test_an_empty_log_takes_any_key(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        await (await Control.open([nats_server.url], OTHER)).close()

    at_desk(nats_server, test)
