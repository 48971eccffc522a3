"""Sealed secrets open with the right key for the right purpose, and in no other case."""

from __future__ import annotations

import base64
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from events.secrets import KEY_VARIABLE, SecretError, Vault, is_sealed, node_purpose, seal_nodes


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def test_a_secret_opens_again_after_a_restart(tmp_path: Path) -> None:
    sealed = Vault.load(tmp_path).seal("s3cret ☃", "tenant:acme")
    assert is_sealed(sealed)
    assert "s3cret" not in sealed
    assert Vault.load(tmp_path).open(sealed, "tenant:acme") == "s3cret ☃"
    assert (tmp_path / "secret.key").stat().st_mode & 0o777 == 0o600


def test_for_another_purpose_it_does_not_open(tmp_path: Path) -> None:
    vault = Vault.load(tmp_path)
    with pytest.raises(SecretError, match="sealed for another use"):
        vault.open(vault.seal("s3cret", "tenant:acme"), "tenant:widgetco")


def test_changed_by_one_character_it_does_not_open(tmp_path: Path) -> None:
    vault = Vault.load(tmp_path)
    sealed = vault.seal("s3cret", "p")
    for at in range(len(sealed)):
        changed = sealed[:at] + ("A" if sealed[at] != "A" else "B") + sealed[at + 1 :]
        with pytest.raises(SecretError):
            vault.open(changed, "p")
    # Bits of the last character that base64 does not use are no second spelling either.
    others = [sealed[:-3] + chr(code) + "==" for code in range(33, 127) if chr(code) != sealed[-3]]
    for changed in others:
        with pytest.raises(SecretError):
            vault.open(changed, "p")


def test_the_wrong_key_is_named(tmp_path: Path) -> None:
    mine, other = Vault(os.urandom(32)), Vault(os.urandom(32))
    with pytest.raises(SecretError, match=f"key {mine.key_id}, but this process has key"):
        other.open(mine.seal("s3cret", "p"), "p")


def test_a_plain_password_is_not_taken_for_a_sealed_one(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="is not sealed") as caught:
        Vault.load(tmp_path).open("hunter2", "p")
    assert "hunter2" not in str(caught.value)


def test_the_key_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = os.urandom(32)
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(key).decode())
    assert Vault.load(tmp_path).open(Vault(key).seal("x", "p"), "p") == "x"
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv(KEY_VARIABLE, "c2hvcnQ=")
    with pytest.raises(SecretError, match="TENANTRY_SECRET_KEY holds 5 bytes instead of 32"):
        Vault.load(tmp_path)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    Vault.load(tmp_path)
    (tmp_path / "secret.key").chmod(0o644)
    with pytest.raises(SecretError, match="chmod 600"):
        Vault.load(tmp_path)


def test_a_key_cut_short_is_refused(tmp_path: Path) -> None:
    Vault.load(tmp_path)
    (tmp_path / "secret.key").write_text("AAAA")
    with pytest.raises(SecretError, match="3 bytes instead of 32"):
        Vault.load(tmp_path)


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        vaults = list(threads.map(lambda _: Vault.load(tmp_path / "data"), range(32)))
    assert len({vault.key_id for vault in vaults}) == 1
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["secret.key"]


def test_sealing_the_same_nodes_again_changes_nothing(tmp_path: Path) -> None:
    vault = Vault.load(tmp_path)
    plain = {"nodes": [{"host": "db1", "password": "p1"}, {"host": "db2"}]}
    sealed = seal_nodes(plain, {}, vault)
    assert vault.open(sealed["nodes"][0]["password"], node_purpose("db1", 5432, "postgres")) == "p1"
    assert seal_nodes(plain, sealed, vault) == sealed
    assert seal_nodes(sealed, sealed, vault) == sealed
    assert seal_nodes({}, sealed, vault) == {}

    changed = {"nodes": [{"host": "db1", "password": "p2"}]}
    assert seal_nodes(changed, sealed, vault)["nodes"][0] != sealed["nodes"][0]


def test_a_password_sealed_for_one_host_does_not_open_for_another(tmp_path: Path) -> None:
    vault = Vault.load(tmp_path)
    sealed = seal_nodes({"nodes": [{"host": "db1", "password": "p1"}]}, {}, vault)
    with pytest.raises(SecretError):
        vault.open(sealed["nodes"][0]["password"], node_purpose("evil", 5432, "postgres"))
