"""The admin API over TLS: client certificates, renewed certificates, what must not listen."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
from pathlib import Path

import httpx
from support.api import Office, in_office
from support.certificates import Authority, Issued
from support.engines import Nats

from admin.api.port import AdminPort
from events.installation import Installation


def client(office: Office, authority: Authority, own: Issued | None = None) -> httpx.AsyncClient:
    context = ssl.create_default_context(cafile=authority.ca_path)
    if own is not None:
        context.load_cert_chain(own.cert_path, own.key_path)
    return httpx.AsyncClient(base_url=office.server.url, verify=context, timeout=20)


def test_a_certificate_speaks_for_an_operator_of_the_log(nats_server: Nats, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other")
    host = authority.issue("127.0.0.1")

    async def test(office: Office) -> None:
        token = {"Authorization": f"Bearer {office.token}"}
        async with client(office, authority) as bare:
            assert (await bare.get("/tenants")).status_code == 401
            assert (await bare.get("/tenants", headers=token)).status_code == 200
            for name, role in (("eve", "viewer"), ("bob", "operator")):
                path = f"/operators/{name}"
                done = await bare.put(path, json={"role": role}, headers=token)
                assert done.status_code == 204
        async with client(office, authority, authority.issue("bob")) as bob:
            assert (await bob.post("/tenants", json={"id": "acme"})).status_code == 201
            assert office.notes.taken[-1]["actor"] == "bob"
            # A token that is bad is not made good by a certificate.
            wrong = {"Authorization": "Bearer wrong"}
            assert (await bob.get("/tenants", headers=wrong)).status_code == 401
        async with client(office, authority, authority.issue("eve")) as eve:
            assert (await eve.get("/tenants")).status_code == 200
            assert (await eve.post("/tenants", json={"id": "b"})).status_code == 403
            out = {"role": "viewer", "disabled": True}
            await office.control.service.execute(_put("eve", **out), _ann(office))
            assert (await eve.get("/tenants")).status_code == 401
        async with client(office, authority, authority.issue("nobody")) as nobody:
            assert (await nobody.get("/tenants")).status_code == 401
        async with client(office, authority, stranger.issue("bob")) as forged:
            # Refused in the handshake, which some clients only hear of when they read.
            with contextlib.suppress(
                httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError
            ):
                assert (await forged.get("/tenants")).status_code == 401

    admin = {"cert_path": host.cert_path, "key_path": host.key_path, "ca_path": authority.ca_path}
    in_office(nats_server, test, admin=admin)


def _put(name: str, **fields: object) -> object:
    from events.commands_model import PutOperator

    return PutOperator.model_validate({"name": name, **fields})


def _ann(office: Office) -> object:
    return office.control.service.checker.check(office.token)


def test_where_it_listens_follows_the_installation(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    host, renewed = authority.issue("127.0.0.1"), authority.issue("localhost")

    async def test() -> None:
        said: list[str] = []
        port = AdminPort(lambda: None, said.append)
        try:
            here = Installation(admin_address="127.0.0.1:0")
            await port.adapt(here)
            assert said == [f"admin API on {port.url}"]
            await port.adapt(here)
            assert len(said) == 1
            first = port.url

            async with httpx.AsyncClient(verify=False) as plain:
                assert (await plain.get(f"{first}/healthz")).status_code == 200
            admin = {"cert_path": host.cert_path, "key_path": host.key_path}
            secure = Installation(admin_address="127.0.0.1:0", admin=admin)
            await port.adapt(secure)
            assert port.url.startswith("https://127.0.0.1:")
            shutil.copy(renewed.cert_path, host.cert_path)
            shutil.copy(renewed.key_path, host.key_path)
            await port.adapt(secure)
            context = ssl.create_default_context(cafile=authority.ca_path)
            url = port.url.replace("127.0.0.1", "localhost")
            async with httpx.AsyncClient(verify=context) as tls:
                assert (await tls.get(f"{url}/healthz")).status_code == 200

            await port.adapt(Installation(admin_address="0.0.0.0:0"))
            assert said[-1].startswith("warning: The admin API does not listen on 0.0.0.0:0")
            assert port.url == ""
            await port.adapt(Installation(admin_address="off"))
            assert port.url == ""
        finally:
            await port.stop()

    asyncio.run(test())


def test_a_taken_port_is_said_or_passed_over() -> None:
    async def test() -> None:
        said: list[str] = []
        one = AdminPort(lambda: None, said.append)
        await one.adapt(Installation(admin_address="127.0.0.1:0"))
        taken = Installation(admin_address=one.url.removeprefix("http://"))
        two = AdminPort(lambda: None, said.append)
        three = AdminPort(lambda: None, said.append, next_free=True)
        try:
            await two.adapt(taken)
            assert "cannot listen on" in said[-1]
            assert two.url == ""
            await three.adapt(taken)
            assert three.url not in ("", one.url)
        finally:
            for port in (one, two, three):
                await port.stop()

    asyncio.run(test())
