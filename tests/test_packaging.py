"""What is needed to run it for real holds together: compose, image, unit, NATS, alerts, dashboard.

No container engine is needed. What judges a file for real (Docker Compose, systemd-analyze,
promtool) is asked where it is installed; everything else is read and compared.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.analytics_fold import View
from admin.cli.main import parser
from admin.config.load import load
from admin.engines.nats import STOP_SECONDS as NATS_STOP_SECONDS
from admin.engines.nats import nats_server_binary
from admin.engines.postgres import STOP_SECONDS as POSTGRES_STOP_SECONDS
from admin.telemetry.metrics import (
    TopTenants,
    health_families,
    report_families,
    tenant_families,
    view_families,
)
from admin.worker import DRAIN_SECONDS
from admin.worker_keeper import STOP_SECONDS as WORKER_STOP_SECONDS
from events.installation import Limits

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/tenantry.json").read_text())
PASSWORDS = dict.fromkeys(
    ("ACME_PASSWORD", "NATS_PASSWORD", "POSTGRES_PASSWORD", "TENANTRY_SECRET_KEY"), "secret"
)


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def seconds(text: str) -> float:
    return sum(
        float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
        for number, unit in re.findall(r"(\d+)([smh])", text)
    )


# --- Docker Compose ------------------------------------------------------------------------------


def test_docker_compose_accepts_the_file() -> None:
    ways = (["docker", "compose"], ["docker-compose"])
    there = [way for way in ways if shutil.which(way[0]) and not run(*way, "version").returncode]
    if not there:
        pytest.skip("Docker Compose is not installed")
    found = run(*there[0], "-f", "docker-compose.yml", "config", "--quiet")
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_names_only_what_there_is(name: str) -> None:
    service = SERVICES[name]
    assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
    assert set(service["networks"]) <= set(COMPOSE["networks"])
    for volume in service.get("volumes", ()):
        source, target, *mode = volume.split(":")
        assert target.startswith("/")
        if source.startswith("./"):
            assert (ROOT / source).is_dir(), volume
            assert mode == ["ro"], volume
        else:
            assert source in COMPOSE["volumes"]
    for other, wanted in service.get("depends_on", {}).items():
        assert wanted == {"condition": "service_healthy"}
        assert "healthcheck" in SERVICES[other] or "build" in SERVICES[other]
    files = [
        value for value in service.get("environment", {}).values() if value.startswith("/run/")
    ]
    assert sorted(files) == sorted(f"/run/secrets/{each}" for each in service.get("secrets", ()))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_bounded_and_comes_back(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert service["logging"]["options"]["max-size"]
    if name not in ("otel-collector", "proxy-1", "proxy-2"):  # see the comments there
        assert service["healthcheck"]["test"][0] == "CMD"
    # Nothing but the official registry's short names, and no `latest`.
    image = service["image"]
    assert "." not in image.partition("/")[0] or "/" not in image
    assert "build" in service or ":" in image


def test_every_volume_network_and_secret_is_used() -> None:
    for kind in ("volumes", "networks", "secrets"):
        used = {
            each.split(":")[0] for service in SERVICES.values() for each in service.get(kind, ())
        }
        assert set(COMPOSE[kind]) <= used


def test_postgres_and_nats_are_for_the_proxies_alone() -> None:
    for name in ("postgres", "nats-1", "nats-2", "nats-3"):
        assert "ports" not in SERVICES[name]
        (network,) = SERVICES[name]["networks"]
        assert COMPOSE["networks"][network] == {"internal": True}
        beside = {other for other in SERVICES if network in SERVICES[other]["networks"]}
        kind = name.partition("-")[0]
        assert {each for each in beside if not each.startswith(kind)} == {"proxy-1", "proxy-2"}


def test_ports_are_on_loopback_and_do_not_collide() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(ports)


def test_the_proxies_share_nothing_but_nats_and_postgres() -> None:
    one, two = SERVICES["proxy-1"], SERVICES["proxy-2"]
    written = [
        [volume for volume in proxy["volumes"] if not volume.endswith(":ro")]
        for proxy in (one, two)
    ]
    assert written == [["proxy-1:/var/lib/tenantry"], ["proxy-2:/var/lib/tenantry"]]
    assert one["environment"] == two["environment"]
    assert seconds(one["stop_grace_period"]) > DRAIN_SECONDS + WORKER_STOP_SECONDS
    given = parser().parse_args(one["command"][1:])
    assert str(given.config) == "/etc/tenantry/compose.toml"
    assert one["ulimits"]["nofile"] > Limits().max_clients


def test_the_configuration_fits_the_compose_file() -> None:
    loaded = load(ROOT / "docs/compose.toml", PASSWORDS)
    assert (loaded.mistakes, loaded.warnings) == ([], [])
    installation = loaded.installation
    assert installation is not None
    assert installation.nodes[0].host in SERVICES
    hosts = [server.partition("@")[2].partition(":")[0] for server in installation.events.servers]
    assert hosts == ["nats-1", "nats-2", "nats-3"]
    assert installation.events.replicas == len(hosts)
    command = SERVICES["postgres"]["command"]
    room = int(next(each for each in command if "max_connections" in each).partition("=")[2])
    # Two proxies, four provisionings of two connections each on both, and some for people.
    assert room >= 2 * (installation.pool.max_connections or 0) + 2 * 8 + 10
    collector = yaml.safe_load((DEPLOY / "otel/collector.yml").read_text())
    port = collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"].rpartition(":")[2]
    assert installation.telemetry.endpoint == f"http://otel-collector:{port}"
    page = str(installation.telemetry.prometheus_address).rpartition(":")[2]
    assert scraped("tenantry") == [f"proxy-1:{page}", f"proxy-2:{page}"]
    own = collector["service"]["telemetry"]["metrics"]["readers"][0]["pull"]["exporter"]
    assert scraped("otel-collector") == [f"otel-collector:{own['prometheus']['port']}"]


def test_pipelines_of_the_collector_name_what_there_is() -> None:
    collector = yaml.safe_load((DEPLOY / "otel/collector.yml").read_text())
    for pipeline in collector["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(collector[kind])


def scraped(job: str) -> list[str]:
    prometheus = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    found = {each["job_name"]: each["static_configs"] for each in prometheus["scrape_configs"]}
    return list(found[job][0]["targets"])


# --- secrets -------------------------------------------------------------------------------------


def test_make_secrets_makes_those_of_the_compose_file_once(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert run(DEPLOY / "make-secrets", folder).returncode == 0
    made = {file.name: file.read_text() for file in folder.iterdir()}
    assert {f"./deploy/secrets/{name}" for name in made} == {
        secret["file"] for secret in COMPOSE["secrets"].values()
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(set(made.values())) == len(made)
    again = run(DEPLOY / "make-secrets", folder)
    assert (again.returncode, again.stdout) == (0, "")
    assert {file.name: file.read_text() for file in folder.iterdir()} == made


def test_secrets_stay_out_of_git() -> None:
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_with_secrets_leaves_other_files_alone() -> None:
    told = run(DEPLOY / "with-secrets", "env", SSL_CERT_FILE="/etc/ssl/cert.pem").stdout
    assert "SSL_CERT_FILE=/etc/ssl/cert.pem\n" in told
    assert "\nSSL_CERT=" not in told


def test_with_secrets_says_which_file_is_missing() -> None:
    refused = run(DEPLOY / "with-secrets", "true", SOME_PASSWORD_FILE="/run/secrets/no-such")
    assert refused.returncode == 2
    assert "/run/secrets/no-such" in refused.stderr


# --- NATS ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3])
def test_nats_takes_its_configuration(number: int, tmp_path: Path) -> None:
    # What start.sh hands to nats-server, with a password that looks like a number.
    (tmp_path / "password").write_text("120034\n")
    stub = tmp_path / "nats-server"
    stub.write_text(f'#!/bin/sh\nexec {nats_server_binary()} -t "$@"\n')
    stub.chmod(0o755)
    service = SERVICES[f"nats-{number}"]
    script, config = service["entrypoint"]
    assert config == f"/etc/nats/nats-{number}.conf"
    checked = run(
        DEPLOY / "nats" / Path(script).name,
        DEPLOY / "nats" / Path(config).name,
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        NATS_PASSWORD_FILE=str(tmp_path / "password"),
        NATS_NODES=service["environment"]["NATS_NODES"],
    )
    assert checked.returncode == 0, checked.stderr
    assert f"server_name: nats-{number}\n" in (DEPLOY / "nats" / Path(config).name).read_text()


def test_nats_writes_before_it_acknowledges() -> None:
    text = (DEPLOY / "nats/cluster.conf").read_text()
    assert re.search(r"^  sync_interval: always$", text, re.MULTILINE)
    assert re.search(r"^http: 127\.0\.0\.1:8222$", text, re.MULTILINE)


# --- the image -----------------------------------------------------------------------------------


def instructions(name: str) -> list[str]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{name} (.*)$", text, re.MULTILINE)


def test_the_image_copies_what_there_is() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    for copied in instructions("COPY"):
        if copied.startswith("--from"):
            continue
        *sources, _ = copied.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored, source


def test_the_image_has_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = " ".join(instructions("COPY")).split()
    for package in project["tool"]["setuptools"]["packages"]:
        assert package.partition(".")[0] in copied


def test_the_image_runs_compiled_and_not_as_root() -> None:
    assert any("TENANTRY_COMPILE=require" in each for each in instructions("RUN"))
    assert instructions("USER")[-1] == "10001:10001"
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["with-secrets"]
    program, *arguments = json.loads(instructions("CMD")[0])
    assert program == "tenantry"
    parser().parse_args(arguments)
    assert "/healthz" in instructions("HEALTHCHECK")[0]


# --- systemd -------------------------------------------------------------------------------------

UNIT = (DEPLOY / "systemd/tenantry.service").read_text()


def setting(name: str) -> str:
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)[-1]


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "tenantry.service"
    # It looks whether the program is there.
    unit.write_text(UNIT.replace("/opt/tenantry/bin/tenantry", "/bin/true"))
    found = run("systemd-analyze", "verify", unit)
    assert (found.returncode, found.stderr) == (0, "")
    rated = run("systemd-analyze", "security", "--offline=true", "--threshold=20", unit)
    assert rated.returncode == 0, rated.stdout[-300:]


def test_the_unit_starts_reloads_and_stops_as_it_should() -> None:
    program, *arguments = shlex.split(setting("ExecStart"))
    assert program.endswith("/tenantry")
    parser().parse_args(arguments)
    assert setting("ExecReload") == "/bin/kill -HUP $MAINPID"
    engines = NATS_STOP_SECONDS + POSTGRES_STOP_SECONDS
    assert float(setting("TimeoutStopSec")) > DRAIN_SECONDS + WORKER_STOP_SECONDS + engines
    assert int(setting("LimitNOFILE")) > (Limits().max_clients or 0)
    assert setting("KillMode") == "mixed"


# --- alerts and the dashboard --------------------------------------------------------------------


def series() -> set[str]:
    """The names of all series that the proxy's page can have."""
    health = {
        "ready": True,
        "log_connected": True,
        "staleness_seconds": 0.0,
        "position": 0,
        "workers": {"alive": 1, "wanted": 1},
        "provisioning_pending": 0,
        "provisioning_failing": 0,
        "analytics_ready": True,
    }
    view = View()
    families = [
        *tenant_families(view, TopTenants(1), lambda _: None, 0.0, "tenantry"),
        *view_families(view, "tenantry"),
        *health_families(health, "tenantry"),
        *report_families({}, "tenantry"),
    ]
    return {family.name for family in families}


def queries() -> list[tuple[str, str]]:
    found = [(rule["alert"], rule["expr"]) for rule in RULES]
    for panel in DASHBOARD["panels"]:
        found += [(panel["title"], target["expr"]) for target in panel.get("targets", ())]
    found += [("variable", each["query"]["query"]) for each in DASHBOARD["templating"]["list"]]
    return found


@pytest.mark.parametrize(("where", "query"), queries())
def test_queries_ask_for_series_that_there_are(where: str, query: str) -> None:
    asked = set(re.findall(r"\btenantry_\w+", query))
    assert asked <= series(), where
    assert asked or query.startswith(("up{", "sum(up{")), where
    for opening, closing in ("()", "[]", "{}"):
        assert query.count(opening) == query.count(closing), where


def test_a_counter_is_asked_for_its_rate_and_nothing_else() -> None:
    for where, query in queries():
        for name in re.findall(r"\btenantry_\w+_total\b", query):
            if where != "variable":
                assert re.search(rf"(rate|increase)\({name}\b", query), (where, query)


def test_promtool_accepts_the_rules() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    found = run("promtool", "check", "rules", DEPLOY / "prometheus/rules.yml")
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    text = (ROOT / "docs/operations.md").read_text().partition("\n## Alerts\n")[2]
    sections = re.findall(r"^### (\w+)\n\n\*(\w+)\.\* (?=\w)", text, re.MULTILINE)
    alerts = [(rule["alert"], rule["labels"]["severity"]) for rule in RULES]
    assert sorted(sections) == sorted(alerts)
    assert len(set(alerts)) == len(alerts)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_found(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    summary = rule["annotations"]["summary"]
    # A label that the expression sums away would be told as nothing.
    kept = re.search(r"\bby \(([^)]*)\)", rule["expr"])
    labels = set(re.findall(r"\$labels\.(\w+)", summary))
    if kept is not None:
        assert labels <= set(kept[1].split(", "))
    elif rule["expr"].startswith(("max(", "sum(")):
        assert not labels


def test_panels_have_places_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_grafana_finds_its_dashboard_and_prometheus() -> None:
    provisioning = DEPLOY / "grafana/provisioning"
    source = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())
    (prometheus,) = source["datasources"]
    assert prometheus["url"] == "http://prometheus:9090"
    targets = [target for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    used = {target["datasource"]["uid"] for target in targets}
    assert used == {prometheus["uid"]}
    provider = yaml.safe_load((provisioning / "dashboards/tenantry.yml").read_text())
    path = provider["providers"][0]["options"]["path"]
    assert f"./deploy/grafana/dashboards:{path}:ro" in SERVICES["grafana"]["volumes"]


def test_files_of_deploy_that_documents_name_are_there() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for name in re.findall(r"`(deploy/[\w./-]*\w)`", document.read_text()):
            assert (ROOT / name).exists() or name == "deploy/secrets", f"{document.name}: {name}"
