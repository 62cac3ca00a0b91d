"""The Helm chart, as far as it can be checked without helm: values, and what it once rendered.

`deploy/helm/rendered.yaml` is helm's own output for `ci/full-values.yaml`; it names the hash of
the chart's files, so that a chart that was changed and not rendered again is noticed here.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import yaml

from tests.deploy.chart_lint import CHART, FULL, HEADER, RENDERED, chart_hash
from tests.deploy.command_lines import ROOT, parsed, variables_read
from tests.deploy.metrics import queried

TEXT = RENDERED.read_text()
DOCUMENTS: list[dict[str, Any]] = [each for each in yaml.safe_load_all(TEXT) if each]
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = jsonschema_rs.validator_for(json.loads((CHART / "values.schema.json").read_text()))


def of(kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in DOCUMENTS if each["kind"] == kind}


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each workload's name and pod template."""
    for each in DOCUMENTS:
        name, spec = each["metadata"]["name"], each.get("spec", {})
        if each["kind"] in ("Deployment", "Job"):
            yield name, spec["template"]
        elif each["kind"] == "CronJob":
            yield name, spec["jobTemplate"]["spec"]["template"]


PODS = dict(pods())
CONTAINERS = {
    f"{name}/{container['name']}": container
    for name, pod in PODS.items()
    for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
}


def test_the_rendering_is_of_this_chart() -> None:
    assert TEXT.startswith(HEADER)
    assert f"# Chart: {chart_hash()}\n" in TEXT, "run make lint-deploy RENDER=--render"


def test_what_is_rendered() -> None:
    assert set(of("Deployment")) == {f"skewless-{name}" for name in ("serve", "ingest", "drift")}
    assert set(of("CronJob")) == {
        f"skewless-{name}-job" for name in ("refresh", "drift", "audit", "lake-export")
    }
    assert set(of("HorizontalPodAutoscaler")) == {"skewless-serve", "skewless-ingest"}
    assert set(of("PodDisruptionBudget")) == {"skewless-serve", "skewless-ingest"}
    assert len(of("NetworkPolicy")) == 4
    assert not of("Secret")  # by reference only
    assert set(of("Job")) == {"skewless-migrate"}
    hook = of("Job")["skewless-migrate"]["metadata"]["annotations"]["helm.sh/hook"]
    assert hook == "pre-install,pre-upgrade"


def test_versions_agree() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    found = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    assert chart["appVersion"] == found[1]


def test_the_schema_takes_the_values_and_nothing_misspelt() -> None:
    full = yaml.safe_load(FULL.read_text())
    merged = {
        key: {**value, **full.get(key, {})} if key in ("image", "migrate", "drift") else value
        for key, value in VALUES.items()
    }
    for values in (VALUES, merged):
        SCHEMA.validate(values)
    for wrong in (
        VALUES | {"replica": 2},
        VALUES | {"logFormat": "xml"},
        VALUES | {"secretName": ""},
        VALUES | {"serve": VALUES["serve"] | {"port": 0}},
        VALUES | {"drift": VALUES["drift"] | {"enabled": "yes"}},
    ):
        assert not SCHEMA.is_valid(wrong)


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_containers_command_exists(name: str) -> None:
    container = CONTAINERS[name]
    assert parsed(container["args"])
    if (command := container.get("command")) is not None:
        assert command[:2] == ["sh", "-c"]
        assert command[2].startswith('skewless "$@"; code=$?;')


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_reads_its_variables_and_knows_no_secret(name: str) -> None:
    variables = {each["name"]: each for each in CONTAINERS[name]["env"]}
    # Those of the OpenTelemetry SDK are its own.
    assert {name for name in variables if not name.startswith("OTEL_")} <= variables_read()
    for each in variables.values():
        if "value" not in each:
            reference = each["valueFrom"]["secretKeyRef"]
            assert reference["key"] == each["name"]
            owner = "skewless-owner" if "migrate" in name else "skewless"
            assert reference["name"] == owner
    assert variables["SKEWLESS_LOG_FORMAT"]["value"] == "json"
    assert not variables["SKEWLESS_POSTGRES_URL"]["valueFrom"]["secretKeyRef"]["optional"]


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_has_no_rights(name: str) -> None:
    container, pod = CONTAINERS[name], PODS[name.partition("/")[0]]["spec"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["securityContext"]["runAsNonRoot"] is True
    # The user of deploy/Dockerfile.
    assert (
        f"USER {pod['securityContext']['runAsUser']}:"
        in (ROOT / "deploy" / "Dockerfile").read_text()
    )
    assert pod["automountServiceAccountToken"] == (name == "skewless-serve/serve")
    assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
    assert container["resources"]["requests"]
    tag = container["image"].rpartition(":")[2]
    lock = tag.partition("-")[2] or "production"
    assert (ROOT / "locks" / f"{lock}.txt").is_file()


def test_probes_ask_the_port_that_the_program_listens_on() -> None:
    for name, port in (("serve", "http"), ("ingest", "metrics"), ("drift", "metrics")):
        container = CONTAINERS[f"skewless-{name}/{name}"]
        options = parsed(container["args"])
        listens = options.get("metrics_port") or options.get("port")
        assert container["ports"] == [{"name": port, "containerPort": listens}]
        hosts = {options.get("metrics_host"), options.get("host")}
        assert "0.0.0.0" in hosts
        for probe in ("startupProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] == port
        [monitored] = of("ServiceMonitor")[f"skewless-{name}"]["spec"]["endpoints"]
        assert monitored["port"] == port
        [served] = of("Service")[f"skewless-{name}"]["spec"]["ports"]
        assert (served["name"], served["port"], served["targetPort"]) == (port, listens, port)


def test_selectors_find_their_pods() -> None:
    labels = [pod["metadata"]["labels"].items() for pod in PODS.values()]
    for each in DOCUMENTS:
        spec = each.get("spec", {})
        match each["kind"]:
            case "Service":
                selector = spec["selector"]
            case "PodDisruptionBudget":
                selector = spec["selector"]["matchLabels"]
            case "NetworkPolicy":
                selector = spec["podSelector"]["matchLabels"]
            case _:
                continue
        assert any(selector.items() <= found for found in labels), each["metadata"]["name"]
    for name, monitor in of("ServiceMonitor").items():
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        assert wanted <= of("Service")[name]["metadata"]["labels"].items()


def test_jobs_are_named_as_dashboards_and_alerts_know_them() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "monitoring" / "prometheus.yml").read_text())
    jobs = {
        monitor["spec"]["endpoints"][0]["relabelings"][0]["replacement"]
        for monitor in of("ServiceMonitor").values()
    }
    assert jobs == {each["job_name"] for each in config["scrape_configs"]}


def test_autoscalers_count_by_metrics_that_exist() -> None:
    path = ROOT / "deploy" / "helm" / "prometheus-adapter.yaml"
    rules = yaml.safe_load(path.read_text())["rules"]
    named = {"Pods": "custom", "External": "external"}
    for scaler in of("HorizontalPodAutoscaler").values():
        target = scaler["spec"]["scaleTargetRef"]["name"]
        assert target in of("Deployment")
        assert "replicas" not in of("Deployment")[target]["spec"]
        for metric in scaler["spec"]["metrics"]:
            if metric["type"] in named:
                wanted = metric[metric["type"].lower()]["metric"]["name"]
                [rule] = [
                    rule for rule in rules[named[metric["type"]]] if rule["name"]["as"] == wanted
                ]
                assert queried(rule["seriesQuery"])


def test_findings_of_a_check_are_no_failure_of_its_job() -> None:
    command = CONTAINERS["skewless-drift-job/drift"]["command"]
    assert "in 3|4) exit 0" in command[2]
    assert "command" not in CONTAINERS["skewless-refresh-job/refresh"]
    for code, expected in ((0, 0), (3, 0), (4, 0), (5, 5), (1, 1)):
        # A program of that name that ends so, instead of ours.
        script = f"skewless() {{ return {code}; }}; {command[2]}"
        done = subprocess.run(["sh", "-c", script, "skewless", "drift", "check"], check=False)
        assert done.returncode == expected
