"""Tiers, features, AI settings and the log's NATS in a configuration file."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.desk import VAULT
from support.engines import Nats

from admin.config.load import Loaded, load
from admin.config.render import check_as_dict
from admin.control import Control
from events.commands import CommandRefused

HEAD = '[[nodes]]\nhost = "db"\n'
TIERS = (
    HEAD
    + """
[multi_tenancy]
deletion_retention = "7d"
[multi_tenancy.default.features]
seats = 5
[multi_tenancy.tiers.gold.rate_limits]
qps_limit = 5000
[multi_tenancy.tiers.gold.features]
graphql = true
[[multi_tenancy.tenants]]
id = "acme"
tier = "gold"
users = [{ name = "a", password = "p" }]
[multi_tenancy.tenants.features]
region = "eu"
[multi_tenancy.tenants.ai]
retrieval_limit = 20
"""
)


def loaded(folder: Path, text: str) -> Loaded:
    file = folder / "t.toml"
    file.write_text(text)
    return load(file, {})


def test_tiers_are_applied_with_the_tenants_that_name_them(
    tmp_path: Path, nats_server: Nats
) -> None:
    async def run() -> None:
        control = await Control.open([nats_server.url], VAULT)
        file = loaded(tmp_path, TIERS)
        assert file.mistakes == []
        assert len((await control.apply(file)).changed) == 3
        tenant = control.projection.tenant("acme")
        assert tenant is not None
        assert tenant.rate_limits.qps_limit == 5000
        assert tenant.features == {"seats": 5, "graphql": True, "region": "eu"}
        assert tenant.ai.retrieval_limit == 20
        assert (await control.apply(loaded(tmp_path, TIERS))).changed == []
        changed = TIERS.replace("5000", "6000")
        assert len((await control.apply(loaded(tmp_path, changed))).changed) == 1
        await control.close()

    asyncio.run(run())


def test_a_file_is_taken_whole_or_not_at_all(tmp_path: Path, nats_server: Nats) -> None:
    async def run() -> None:
        control = await Control.open([nats_server.url], VAULT)
        await control.apply(loaded(tmp_path, TIERS))
        position = control.projection.position
        others = TIERS.split("[[multi_tenancy.tenants]]")[0] + (
            '[[multi_tenancy.tenants]]\nid = "fine"\n'
            '[[multi_tenancy.tenants]]\nid = "thief"\n'
            'isolation = { schema_name = "acme" }\n'
            '[[multi_tenancy.tenants]]\nid = "lost"\ntier = "silver"\n'
        )
        file = loaded(tmp_path, others)
        assert file.mistakes == []
        with pytest.raises(CommandRefused) as caught:
            await control.apply(file)
        assert {each.path for each in caught.value.mistakes} == {
            "tenant.thief.isolation",
            "tenant.lost.tier",
        }
        assert control.projection.position == position
        await control.close()

    asyncio.run(run())


def test_what_is_stored_only_is_told(tmp_path: Path) -> None:
    file = loaded(tmp_path, TIERS.replace('tier = "gold"', 'tier = "silver"'))
    told = {warning.path: warning.message for warning in file.warnings}
    assert told["multi_tenancy.tenants[0].ai.retrieval_limit"].startswith("accepted, not used yet")
    assert 'no tier "silver"' in told["multi_tenancy.tenants[0].tier"]
    gold = TIERS.replace("tiers.gold.features]", "tiers.gold.ai]").replace(
        "graphql = true", 'knowledge_base = "docs"'
    )
    assert any("tiers" in warning.path for warning in loaded(tmp_path, gold).warnings)


def test_the_check_shows_what_a_tier_comes_to(tmp_path: Path) -> None:
    (tenant,) = check_as_dict(loaded(tmp_path, TIERS))["tenants"]
    assert tenant["rate_limits"]["qps_limit"] == 5000
    assert tenant["tier"] == "gold"


def test_mistakes_within_a_tier(tmp_path: Path) -> None:
    file = loaded(
        tmp_path,
        HEAD + '[multi_tenancy.tiers.gold]\nname = "x"\nrate_limits = { qps_limits = 1 }\n',
    )
    told = {mistake.path: mistake for mistake in file.mistakes}
    assert "multi_tenancy.tiers.gold.name" in told
    assert 'did you mean "qps_limit"' in told[
        "multi_tenancy.tiers.gold.rate_limits.qps_limits"
    ].remedy.lower().replace("“", '"')


def test_how_to_log_in_to_nats(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    good = HEAD + '[events]\nservers = ["tls://n:4222"]\nca_path = "ca.pem"\n'
    file = loaded(tmp_path, good)
    assert file.mistakes == []
    assert file.installation is not None
    assert file.installation.events.ca_path == str(tmp_path / "ca.pem")
    bad = HEAD + (
        '[events]\nservers = ["tls://n:4222?pasword=x"]\ncert_path = "none.pem"\n'
        'nkey_path = "ca.pem"\ncredentials_path = "ca.pem"\n'
    )
    told = {mistake.path: mistake.message for mistake in loaded(tmp_path, bad).mistakes}
    assert "no option pasword" in told["events.servers"]
    assert "No such file" in told["events.cert_path"]
    assert "stands beside" in told["events.nkey_path"]
    assert "belong together" in told["events"]
    alone = HEAD + '[events]\nembedded = true\nca_path = "ca.pem"\n'
    told = {mistake.path: mistake.message for mistake in loaded(tmp_path, alone).mistakes}
    assert told["events.ca_path"] == "is for a NATS of your own"
