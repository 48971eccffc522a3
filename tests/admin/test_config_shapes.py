"""Every documented shape of a configuration loads, and each key without a place is told."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from admin.cli.main import main
from admin.config.load import load
from admin.config.rules import resolve
from admin.config.shapes import convert, convert_data
from admin.config.toml import dumps

FIXTURES = Path(__file__).parents[1] / "fixtures" / "config"
SHAPES = FIXTURES / "shapes"


@pytest.mark.parametrize(
    ("name", "shape", "tenants"),
    [
        ("shapes/design-page.toml", "map", ["tenant_a", "tenant_b", "tenant_c", "tenant_d"]),
        ("heliosproxy-example.toml", "array", ["acme", "widgetco"]),
        ("shapes/daemon.toml", "list", ["acme", "globex"]),
        ("shapes/full.toml", "flat", ["acme"]),
        ("shapes/gateway-complete.yaml", "yaml", ["acme-corp", "startup-inc"]),
        ("shapes/gateway-static.yaml", "yaml", ["acme-corp", "beta-company"]),
    ],
)
def test_a_documented_file_loads_and_converts(name: str, shape: str, tenants: list[str]) -> None:
    loaded = load(FIXTURES / name, {})
    assert loaded.mistakes == []
    assert [id for id, _ in loaded.tenants] == tenants
    found = convert(FIXTURES / name)
    assert found.shape == shape
    assert tomllib.loads(found.text) == found.settings
    assert not [note for note in found.notes if "still to correct" in note]


def test_the_design_page_means_what_it_says() -> None:
    loaded = load(SHAPES / "design-page.toml", {})
    assert loaded.installation is not None
    found = {id: resolve(id, s, loaded.installation.defaults) for id, s in loaded.tenants}
    assert found["tenant_a"].isolation.strategy == "database"
    assert found["tenant_a"].database == "tenant_a_db"
    assert found["tenant_b"].schema_name == "tenant_b"
    assert found["tenant_c"].isolation.strategy == "row"
    assert found["tenant_d"].isolation.branch_name == "tenant_d"
    assert found["tenant_d"].rate_limits.qps_limit == 100, "the default"
    assert found["tenant_b"].rate_limits.max_connections == 20
    told = {warning.path for warning in loaded.warnings if "ignored" in warning.message}
    assert "multi_tenancy.identification.jwt.issuer" in told


def test_every_ignored_key_of_the_gateway_is_told_by_its_path() -> None:
    found = convert(SHAPES / "gateway-complete.yaml")
    told = {path for path, _ in found.ignored}
    assert {
        "multi_tenancy.tiers.free.quotas.bandwidth.limit",
        "multi_tenancy.tenants[0].routing.upstream",
        "multi_tenancy.cache.per_tenant_max_size",
        "multi_tenancy.metering.destination.url",
        "multi_tenancy.identification.methods[1].claim",
        "upstreams[1].endpoints",
    } <= told
    tiers = found.settings["multi_tenancy"]["tiers"]
    assert tiers["pro"]["rate_limits"]["qps_limit"] == 5000
    assert tiers["pro"]["rate_limits"]["burst_multiplier"] == 2.0


def test_a_list_of_tenants_is_row_isolation() -> None:
    loaded = load(SHAPES / "daemon.toml", {})
    assert loaded.installation is not None
    tenant = resolve("acme", dict(loaded.tenants)["acme"], loaded.installation.defaults)
    assert (tenant.isolation.strategy, tenant.isolation.tenant_column) == ("row", "tid")
    assert loaded.installation.identification.option == "application_name"
    assert any("mt_data" in warning.message for warning in loaded.warnings)


def test_the_documented_new_tenant_is_added_to_the_documented_file(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    whole = (FIXTURES / "heliosproxy-example.toml").read_text()
    file.write_text(whole + "\n" + (SHAPES / "new-tenant.toml").read_text())
    loaded = load(file, {})
    assert loaded.mistakes == []
    assert [id for id, _ in loaded.tenants] == ["acme", "widgetco", "newclient"]


def leaves(value: object, path: str = "") -> set[str]:
    if isinstance(value, dict) and value:
        return set().union(*(leaves(v, f"{path}.{k}".strip(".")) for k, v in value.items()))
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return set().union(*(leaves(v, f"{path}[{at}]") for at, v in enumerate(value)))
    return {path}


def test_every_snippet_of_the_gateway_page_converts() -> None:
    documents = list(yaml.safe_load_all((SHAPES / "gateway-snippets.yaml").read_text()))
    assert len(documents) > 20
    for document in documents:
        found = convert_data(document, {"LAUNCHDARKLY_SDK_KEY": "x", "WEBHOOK_SECRET": "y"})
        tomllib.loads(found.text)
        wrong = [note for note in found.notes if "still to correct" in note]
        assert not wrong, (document, wrong)


# Keys of the gateway page that mean something here; all others must be told.
TAKEN = re.compile(
    r"multi_tenancy\.(enabled"
    r"|(tenants\[\d+\]|tiers\.\w+)\.(id|name|tier|features\.\w+"
    r"|rate_limits\.(requests_per_second|burst)"
    r"|limits\.(max_connections|max_request_size|max_response_size)))"
)


def test_every_key_of_the_gateway_page_is_taken_or_told(tmp_path: Path) -> None:
    text = (SHAPES / "gateway-snippets.yaml").read_text()
    whole = [
        (SHAPES / name).read_text() for name in ("gateway-complete.yaml", "gateway-static.yaml")
    ]
    for number, part in enumerate([*re.split(r"^---$", text, flags=re.MULTILINE), *whole]):
        file = tmp_path / f"{number}.yaml"
        file.write_text(part)
        loaded = load(file, {"LAUNCHDARKLY_SDK_KEY": "x", "WEBHOOK_SECRET": "y"})
        assert loaded.mistakes == [], part
        told = {warning.path for warning in loaded.warnings}
        for path in leaves(yaml.safe_load(part)):
            above = {path[: each.start()] for each in re.finditer(r"[.\[]", path)} | {path}
            assert above & told or TAKEN.fullmatch(path), (part, path)


@pytest.mark.parametrize(
    "name",
    [
        "heliosproxy-example.toml",
        "shapes/daemon.toml",
        "shapes/design-page.toml",
        "shapes/full.toml",
        "shapes/gateway-complete.yaml",
        "shapes/gateway-static.yaml",
    ],
)
def test_a_converted_file_means_the_same(name: str, tmp_path: Path) -> None:
    file = FIXTURES / name
    before = load(file, {})
    converted = tmp_path / "tenantry.toml"
    converted.write_text(convert(file).text)
    after = load(converted, {})
    assert (after.mistakes, after.tenants, after.tiers) == ([], before.tenants, before.tiers)
    # What is converted has nothing left to convert.
    again = convert(converted)
    assert [path for path, _ in again.ignored] == []
    assert tomllib.loads(again.text) == tomllib.loads(converted.read_text())


def test_the_command_writes_a_file_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "tenantry.toml"
    arguments = ["config", "convert", str(SHAPES / "full.toml"), "--output", str(output)]
    assert main(arguments) == 0
    assert "ignored: multi_tenancy.admin_user_pattern" in capsys.readouterr().err
    assert main(["config", "check", str(output)]) == 0
    assert main(arguments) == 4
    (tmp_path / "bad.yaml").write_text("a: [")
    assert main(["config", "convert", str(tmp_path / "bad.yaml")]) == 2


_LEAF = (
    st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
    | st.integers(-(2**60), 2**60)
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
)
_TREE = st.recursive(
    _LEAF,
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(st.text('ab ."\x7f', max_size=4), below)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abc-_ .", max_size=5), _TREE, max_size=4))
def test_what_is_written_is_read_back(data: dict[str, object]) -> None:
    assert tomllib.loads(dumps(data)) == data
