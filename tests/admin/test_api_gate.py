"""The admin API as an attacker sees it: hosts, headers, sizes, rates, slow clients."""

from __future__ import annotations

import asyncio
import contextlib
import json

import httpx
import pytest
from support.api import FAST, Office, in_office
from support.engines import Nats

from admin.api import limits, server
from admin.api.limits import Buckets, Rate, Rates
from admin.api.server import check_secure
from admin.cli.failure import Failure
from events.audit_sink import LIMIT, LOGIN_FAILED
from events.installation import Installation


async def raw(office: Office, request: bytes, seconds: float = 5) -> bytes:
    """What comes back until the connection is closed, or nothing more comes."""
    reader, writer = await asyncio.open_connection(office.server.host, office.server.port)
    try:
        writer.write(request)
        await writer.drain()
        found = b""
        try:
            async with asyncio.timeout(seconds):
                while chunk := await reader.read(65536):
                    found += chunk
                    if b"\r\n\r\n" in found and b"content-length: 0" not in found:
                        head, _, body = found.partition(b"\r\n\r\n")
                        said = [
                            int(line.split(b":")[1])
                            for line in head.split(b"\r\n")
                            if line.startswith(b"content-length:")
                        ]
                        if said and len(body) >= said[0]:
                            break
        except TimeoutError:
            pass
        return found
    finally:
        writer.close()
        await writer.wait_closed()


def head(office: Office, *lines: str, path: str = "/tenants", method: str = "GET") -> bytes:
    text = [f"{method} {path} HTTP/1.1", f"Authorization: Bearer {office.token}", *lines, "", ""]
    return "\r\n".join(text).encode()


def test_only_our_own_names_are_served(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        for host in ("localhost", "127.0.0.1:1", "[::1]:9090", "LOCALHOST.", "admin.example"):
            answer = await raw(office, head(office, f"Host: {host}"))
            assert answer.startswith(b"HTTP/1.1 200"), host
        for host in (
            "evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "",
            "a b",
            "localhost@x",
        ):
            answer = await raw(office, head(office, f"Host: {host}"))
            assert answer.startswith(b"HTTP/1.1 421"), (host, answer)

    in_office(nats_server, test, admin={"hosts": ["admin.example"]})


def test_pages_of_other_origins_are_refused(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        own = {"Origin": office.server.url}
        assert (await office.ask("GET", "/tenants", headers=own)).status_code == 200
        for origin in ("https://evil.example", "null", "http://localhost:1"):
            answer = await office.ask("POST", "/tenants", {"id": "a"}, headers={"Origin": origin})
            assert answer.status_code == 403, origin
            assert "access-control-allow-origin" not in answer.headers
        assert office.control.projection.record("a") is None
        preflight = await office.ask("OPTIONS", "/tenants", headers=own)
        assert preflight.status_code == 405

    # Without tokens, this is all that stands between a browser and the installation.
    in_office(nats_server, test, admin_allow_insecure=True)


TWO_OPINIONS = [
    ("Content-Length: 3", "Transfer-Encoding: chunked"),
    ("Content-Length: 3", "Content-Length: 4"),
    ("Transfer-Encoding: chunked, identity",),
    ("Transfer-Encoding : chunked",),
    ("Authorization: Bearer other",),
    ("Host: localhost",),
    ('If-Match: "1"', 'If-Match: "2"'),
    ("Bad\0Header: x",),
]


def test_two_opinions_in_one_request_are_refused(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        for lines in TWO_OPINIONS:
            answer = await raw(office, head(office, "Host: localhost", *lines, method="POST"))
            assert answer.split(b" ")[1] in (b"400", b"501"), (lines, answer)
            assert b"problem+json" in answer

    in_office(nats_server, test)


def test_a_second_request_in_the_body_stays_a_body(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        hidden = head(office, "Host: localhost", method="DELETE", path="/tenants/acme")
        await office.ask("POST", "/tenants", {"id": "acme"})
        sized = f"Content-Length: {len(hidden)}"
        answer = await raw(office, head(office, "Host: localhost", sized, method="POST") + hidden)
        assert answer.count(b"HTTP/1.1") == 1
        assert (await office.ask("GET", "/tenants/acme")).status_code == 200

    in_office(nats_server, test)


def test_a_token_in_the_address_is_refused(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        bare = office.as_token("")
        async with bare:
            for name in ("token", "access_token", "Authorization"):
                answer = await bare.get("/tenants", params={name: office.token})
                assert answer.status_code == 400
                assert office.token not in answer.text
        told = json.dumps(office.notes.taken)
        assert office.token not in told

    in_office(nats_server, test)


ODD_PATHS = [
    "/tenants/..%2f..%2fetc",
    "/tenants/%2e%2e",
    "/tenants/%00",
    "/tenants/ACME",
    "/tenants/a%0d%0aX: y",
    "/tenants/acme%2fusers",
    "/tenants/acme/%2e%2e/acme",
    "//tenants",
    "/tenants/",
    "/tenants/\xe9",
]


def test_odd_paths_lead_nowhere(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await office.ask("POST", "/tenants", {"id": "acme"})
        for path in ODD_PATHS:
            answer = await raw(
                office, head(office, "Host: localhost", path=path.replace(" ", "%20"))
            )
            assert answer.split(b" ")[1] in (b"400", b"404"), (path, answer)
            assert b"Traceback" not in answer

    in_office(nats_server, test)


def test_bodies_are_bounded_in_size_and_depth(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        async def post(content: bytes, **headers: str) -> httpx.Response:
            return await office.client.post("/tenants", content=content, headers=headers)

        large = b'{"id":"' + b"a" * limits.BODY_BYTES_MAX + b'"}'
        assert (await post(large)).status_code == 413

        async def chunks():
            for _ in range(20):
                yield b" " * 65536

        assert (await office.client.post("/tenants", content=chunks())).status_code == 413
        deep = b'{"a":' * 100 + b"1" + b"}" * 100
        assert (await post(deep)).status_code == 400
        very_deep = b"[" * 100_000
        assert (await post(very_deep)).status_code == 400
        assert (await post(b"{")).status_code == 400
        assert (await post(b"[1]")).status_code == 400
        assert (await post(b'{"id": NaN}')).status_code == 400
        assert (await post(b"\xff\xfe")).status_code == 400
        odd = await post(b"<id/>", **{"Content-Type": "application/xml"})
        assert (odd.status_code, odd.json()["code"]) == (415, "media_type")

    in_office(nats_server, test)


def test_long_and_many_headers_are_refused(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        many = [f"X-{number}: y" for number in range(limits.HEADERS_MAX + 1)]
        answer = await raw(office, head(office, "Host: localhost", *many))
        assert answer.startswith(b"HTTP/1.1 431")
        long = "X: " + "y" * (limits.HEADER_BYTES_MAX + 1)
        answer = await raw(office, head(office, "Host: localhost", long))
        assert answer.split(b" ")[1] in (b"400", b"431")
        path = "/tenants/" + "a" * limits.PATH_BYTES_MAX
        assert (await office.ask("GET", path)).status_code == 414

    in_office(nats_server, test)


def test_no_answer_may_be_kept_or_framed(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        for path in ("/tenants", "/nothing", "/docs", "/openapi.json"):
            found = (await office.ask("GET", path)).headers
            assert found["cache-control"] == "no-store"
            assert found["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in found["content-security-policy"]
            assert "server" not in found
        assert "<script" not in (await office.ask("GET", "/docs")).text

    in_office(nats_server, test)


# --- rates ---------------------------------------------------------------------------------------


def test_guessing_tokens_is_slow(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        async with office.as_token("guess") as guesser:
            answers = [await guesser.get("/tenants") for _ in range(5)]
        assert [each.status_code for each in answers] == [401, 401, 401, 429, 429]
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert {note["kind"] for note in office.notes.taken} == {LOGIN_FAILED}
        # Whoever has a good token is not locked out by those who have none.
        assert (await office.ask("GET", "/tenants")).status_code == 200

    in_office(nats_server, test, rates=Rates(FAST, FAST, Rate(0.1, 3)))


def test_a_token_has_a_rate(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        answers = [(await office.ask("GET", "/tenants")).status_code for _ in range(4)]
        assert answers == [200, 200, 200, 429]
        async with office.as_role("viewer") as other:
            assert (await other.get("/tenants")).status_code == 200
        assert office.notes.taken[-1]["kind"] == LIMIT

    in_office(nats_server, test, rates=Rates(FAST, Rate(0.01, 3), FAST))


def test_an_address_has_a_rate(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        answers = [(await office.ask("GET", "/healthz")).status_code for _ in range(4)]
        assert answers == [200, 200, 200, 429]

    in_office(nats_server, test, rates=Rates(Rate(0.01, 3), FAST, FAST))


def test_a_bucket_fills_again() -> None:
    now = [0.0]
    buckets = Buckets(Rate(2, 2), lambda: now[0])
    assert [buckets.take("a"), buckets.take("a")] == [0.0, 0.0]
    assert buckets.take("a") == 0.5
    assert buckets.take("b") == 0.0
    now[0] = 0.5
    assert buckets.take("a") == 0.0
    assert buckets.take("a") == 0.5


# --- connections ---------------------------------------------------------------------------------


def test_whoever_sends_a_header_byte_by_byte_is_left(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.2)

    async def test(office: Office) -> None:
        reader, writer = await asyncio.open_connection(office.server.host, office.server.port)
        ended = False
        try:
            async with asyncio.timeout(5):
                for byte in b"GET / HTTP/1.1\r\n" + b"x" * 10_000:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.02)
                    if reader.at_eof():
                        break
                await reader.read()
            ended = True
        except ConnectionError:
            ended = True
        assert ended
        writer.close()

    in_office(nats_server, test)


def test_whoever_says_nothing_is_left(nats_server: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.1)

    async def test(office: Office) -> None:
        reader, writer = await asyncio.open_connection(office.server.host, office.server.port)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(5):
                assert await reader.read() == b""
        writer.close()

    in_office(nats_server, test)


def test_one_address_has_so_many_connections(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_PER_ADDRESS_MAX", 3)

    async def test(office: Office) -> None:
        kept = [
            await asyncio.open_connection(office.server.host, office.server.port) for _ in range(3)
        ]
        await asyncio.sleep(0.05)
        late, writer = await asyncio.open_connection(office.server.host, office.server.port)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(limits.HEADER_SECONDS / 2):
                assert await late.read() == b""
        writer.close()
        for _, each in kept:
            each.close()
            await each.wait_closed()
        until = asyncio.get_running_loop().time() + 5
        while True:
            answer = await raw(office, head(office, "Host: localhost"))
            if answer.startswith(b"HTTP/1.1 200"):
                break
            assert asyncio.get_running_loop().time() < until

    in_office(nats_server, test)


# --- where it listens ----------------------------------------------------------------------------


def test_elsewhere_it_listens_only_when_it_is_safe() -> None:
    with pytest.raises(Failure, match="tokens would cross the network in clear text"):
        check_secure(Installation(admin_address="0.0.0.0:9090"))
    check_secure(Installation(admin_address="127.0.0.1:9090"))
    check_secure(Installation(admin_address="[::1]:9090"))
    check_secure(Installation(admin_address="localhost:9090"))
    check_secure(Installation(admin_address="0.0.0.0:9090", admin={"cert_path": "a"}))


def test_what_is_dangerous_is_said_loudly(caplog: pytest.LogCaptureFixture) -> None:
    check_secure(Installation(admin_address="0.0.0.0:9090", admin_allow_insecure=True))
    assert "EVERYBODY WHO REACHES IT change everything, without any token" in caplog.text
    check_secure(Installation(admin_address="0.0.0.0:9090", admin={"allow_plaintext": True}))
    assert "takes tokens in clear text" in caplog.text
