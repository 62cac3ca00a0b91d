"""The Compose files, as far as they can be checked without a container engine."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tests.deploy.command_lines import ROOT, parsed, variables_read

DEPLOY = ROOT / "deploy"
SERVERS: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.servers.yaml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
ALL = SERVERS["services"] | SERVICES
PROGRAMS = {name: one for name, one in SERVICES.items() if one["image"].startswith("skewless:")}
OTHERS = {name: one for name, one in ALL.items() if name not in PROGRAMS}
# Typer's copy of click has it under no public name.
[USAGE] = [base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError"]
SECRETS = {
    "SKEWLESS_POSTGRES_PASSWORD", "SKEWLESS_GRAFANA_PASSWORD", "SKEWLESS_POSTGRES_PORT",
    "SKEWLESS_REDIS_PORT", "SKEWLESS_KAFKA_PORT", "SKEWLESS_PROMETHEUS_PORT",
    "SKEWLESS_GRAFANA_PORT",
}  # fmt: skip


def test_the_whole_product() -> None:
    assert COMPOSE["include"] == ["compose.servers.yaml"]
    assert set(SERVERS["services"]) == {"postgres", "redis", "kafka"}
    assert set(PROGRAMS) == {"migrate", "apply", "serve", "ingest", "refresh", "drift"}
    assert set(OTHERS) - set(SERVERS["services"]) == {"prometheus", "grafana"}


@pytest.mark.parametrize("name", OTHERS)
def test_a_server_is_pinned_checked_local_and_kept(name: str) -> None:
    service = OTHERS[name]
    image, _, tag = service["image"].partition(":")
    assert image in {
        "postgres", "valkey/valkey", "apache/kafka", "prom/prometheus", "grafana/grafana",
    }  # fmt: skip
    assert "." in tag, "pinned to a minor version"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    kept = [volume.split(":")[0] for volume in service["volumes"] if volume[0] != "."]
    assert kept == [name]
    assert name in SERVERS["volumes"] | COMPOSE["volumes"]
    # Compose wants strings: YAML's own `yes` and numbers would be refused or changed.
    assert all(isinstance(value, str) for value in service.get("environment", {}).values())
    assert all(isinstance(word, str) for word in service.get("command", []))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_has_no_rights_and_writes_nothing(name: str) -> None:
    service = PROGRAMS[name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_programs_command_exists(name: str) -> None:
    assert parsed(PROGRAMS[name]["command"])


@pytest.mark.parametrize(
    "words", [["serv"], ["serve", "--prot", "1"], ["serve", "--port", "x"], ["drift", "look"]]
)
def test_a_command_that_does_not_exist_is_noticed(words: list[str]) -> None:
    with pytest.raises(USAGE):
        parsed(words)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_reads_its_variables(name: str) -> None:
    environment = PROGRAMS[name]["environment"]
    assert set(environment) <= variables_read()
    assert {"SKEWLESS_POSTGRES_URL", "SKEWLESS_REDIS_URL"} <= set(environment)


def test_whoever_starts_it_sets_what_is_documented() -> None:
    texts = [(DEPLOY / name).read_text() for name in ("compose.yaml", "compose.servers.yaml")]
    asked = set(re.findall(r"\$\{(SKEWLESS_\w+)", "".join(texts)))
    assert asked - variables_read() == SECRETS
    documented = (DEPLOY / "README.md").read_text()
    assert [name for name in sorted(asked) if name not in documented] == []


def test_no_password_is_written_down() -> None:
    for service in ALL.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|KEY$|SLACK", name):
                assert value.startswith("${")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_programs_image_is_built_of_its_roles_lock(name: str) -> None:
    build = PROGRAMS[name]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]) == DEPLOY / "../deploy/Dockerfile"
    lock = build.get("args", {}).get("LOCK", "production")
    assert (ROOT / "locks" / f"{lock}.txt").is_file()
    tag = PROGRAMS[name]["image"].partition(":")[2]
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.*)"', project, re.MULTILINE)
    assert version is not None
    assert tag == version[1] + ("" if lock == "production" else f"-{lock}")


def test_services_wait_for_services_with_what_they_can_tell() -> None:
    for service in ALL.values():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in ALL[other]
            else:
                assert how["condition"] == "service_completed_successfully"
                assert ALL[other]["restart"] == "no"


def test_files_that_are_mounted_are_there() -> None:
    for service in ALL.values():
        for volume in service.get("volumes", []):
            source, target, *_ = volume.split(":")
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
                assert target.startswith("/")


def test_addresses_are_those_of_the_servers() -> None:
    environment = SERVICES["ingest"]["environment"]
    assert "@postgres:5432/" in environment["SKEWLESS_POSTGRES_URL"]
    assert environment["SKEWLESS_REDIS_URL"] == "redis://redis:6379/0"
    kafka = SERVERS["services"]["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"INTERNAL://{environment['SKEWLESS_KAFKA_BOOTSTRAP']}" in kafka.split(",")


def exported() -> dict[str, int]:
    """Services with metrics, and the port that their command names."""
    found = {}
    for name, service in PROGRAMS.items():
        options = parsed(service["command"])
        port = options.get("metrics_port") or options.get("port")
        if port is not None:
            host = options["metrics_host"] if options.get("metrics_port") else options["host"]
            assert host == "0.0.0.0", f"{name} cannot be scraped"
            found[name] = port
    return found


def test_prometheus_scrapes_all_that_export_and_nothing_else() -> None:
    ours = yaml.safe_load((DEPLOY / "compose" / "prometheus.yml").read_text())
    targets = {
        config["job_name"]: config["static_configs"][0]["targets"][0]
        for config in ours["scrape_configs"]
    }
    assert set(targets.values()) == {f"{name}:{port}" for name, port in exported().items()}
    # The same jobs and ports as on one machine, since alerts and dashboards read them.
    local = yaml.safe_load((DEPLOY / "monitoring" / "prometheus.yml").read_text())
    for config in local["scrape_configs"]:
        [target] = config["static_configs"][0]["targets"]
        assert targets[config["job_name"]].partition(":")[2] == target.partition(":")[2]
    mounted = {volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]}
    assert {f"/etc/prometheus/{rules}" for rules in ours["rule_files"]} <= mounted


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    folder = DEPLOY / "compose" / "grafana"
    [source] = yaml.safe_load((folder / "datasource.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = yaml.safe_load((folder / "dashboards.yaml").read_text())["providers"]
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert mounts["./grafana"] == provider["options"]["path"]
    assert [path.name for path in (DEPLOY / "grafana").glob("*.json")]


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    allowed = {
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert all((ROOT / name).exists() for name in allowed)
    copied = re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE)
    for source in copied:
        name = source.replace("${REPOSITORY}", ".").replace("${LOCK}", "production")
        assert (ROOT / name).exists(), source
        first = Path(name).parts[:1]
        assert not first or first[0] in allowed, source
    # What the wheel is made of.
    assert {"pyproject.toml", "extensions", "streaming", "monitoring", "LICENSE"} <= allowed
    assert re.search(r"^USER 10001", text, re.MULTILINE)
