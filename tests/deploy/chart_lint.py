"""`make lint-deploy`: the chart and the Compose files, checked by the tools that will read them.

helm renders the chart, kubeconform compares what it rendered with Kubernetes' own schemas, and
the loader of Docker Compose reads its files. The three are built by Go and kept in the user's
cache; the schemas come from packages. ``--render`` writes `deploy/helm/rendered.yaml`, which
`tests/deploy/test_chart.py` reads where there is no Go.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml

from extensions.local.user_cache_folder import cache_folder

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "skewless"
RENDERED = ROOT / "deploy" / "helm" / "rendered.yaml"
FULL = CHART / "ci" / "full-values.yaml"
TOOLS = {
    "helm": "helm.sh/helm/v3/cmd/helm@v3.22.0",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0",
    # The loader of Docker Compose; its program is named after its folder.
    "cmd": "github.com/compose-spec/compose-go/v2/cmd@v2.16.2",
}
OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
SCHEMAS = "kubernetes-validate==1.37.0"
KUBERNETES = ("1.30.0", "1.37.0")
HEADER = (
    "# Rendered by `make lint-deploy RENDER=--render`, with ci/full-values.yaml. Do not edit.\n"
)


class FailedError(Exception):
    """What a tool complains of."""


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def chart_hash() -> str:
    """SHA-256 of the chart's files, by their names."""
    digest = hashlib.sha256()
    for path in sorted(path for path in CHART.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(CHART)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def go() -> str | None:
    """The Go of this machine."""
    return shutil.which("go") or next(
        (str(path) for path in [Path("/usr/local/go/bin/go")] if path.exists()), None
    )


class Tools:
    """The tools and schemas, built and fetched once."""

    def __init__(self, program: str, folder: Path) -> None:
        self.go, self.folder = program, folder
        self.programs, self.schemas = folder / "bin", folder / "kubernetes-schemas"
        for made in (self.programs, self.schemas):
            made.mkdir(parents=True, exist_ok=True)

    def prepare(self) -> None:
        environment = os.environ | {"GOBIN": str(self.programs)}
        for name, module in TOOLS.items():
            made = self.programs / f"{name}.{module.rpartition('@')[2]}"
            if not made.exists():
                say(f"building {module}")
                run([self.go, "install", module], environment=environment)
                (self.programs / name).rename(made)
        if not all((self.schemas / version).exists() for version in KUBERNETES):
            self._take_schemas()
        if not (crd := self.folder / "servicemonitor-monitoring-v1.json").exists():
            told = json.loads(run([self.go, "mod", "download", "-json", OPERATOR]))
            crd.write_text(json.dumps(_schema_of(Path(told["Dir"]))))

    def _take_schemas(self) -> None:
        """Kubernetes' schemas of two versions, with references that any reader can follow."""
        uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
        with tempfile.TemporaryDirectory(dir=self.folder) as wheel:
            run([uv, "pip", "install", "--quiet", "--no-deps", "--target", wheel, SCHEMAS])
            for version in KUBERNETES:
                target = Path(wheel) / version
                target.mkdir()
                local = f"kubernetes_validate/kubernetes-json-schema/v{version}-local-strict"
                for path in (Path(wheel) / local).glob("*.json"):
                    text = path.read_text().replace("/api/_definitions.json", "_definitions.json")
                    schema = json.loads(text)
                    schema.pop("$id", None)  # an address, by which references would be found
                    (target / path.name).write_text(json.dumps(schema))
                shutil.rmtree(self.schemas / version, ignore_errors=True)
                target.rename(self.schemas / version)

    def run(self, name: str, *arguments: str, given: str | None = None) -> str:
        program = self.programs / f"{name}.{TOOLS[name].rpartition('@')[2]}"
        return run([str(program), *arguments], given=given)

    def render(self, *more: str) -> str:
        return self.run(
            "helm",
            "template",
            "skewless",
            str(CHART),
            "--namespace",
            "features",
            "--kube-version",
            KUBERNETES[0],
            *more,
        )

    def validate(self, manifests: str, version: str) -> str:
        name = "{{ .ResourceKind }}{{ .KindSuffix }}.json"
        return self.run(
            "kubeconform", "-strict", "-summary", "-kubernetes-version", version,
            "-schema-location", str(self.schemas / version / name),
            "-schema-location", str(self.folder / name),
            "-", given=manifests,
        )  # fmt: skip


def _schema_of(module: Path) -> object:
    """The JSON schema of a ServiceMonitor, in which nothing may be unknown."""
    path = "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml"
    definition = yaml.safe_load((module / path).read_text())
    return _closed(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])


def _closed(schema: object) -> object:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _closed(value) for name, value in schema.items()}
    if isinstance(found.get("properties"), dict) and found.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


def run(
    command: list[str], *, given: str | None = None, environment: dict[str, str] | None = None
) -> str:
    done = subprocess.run(
        command, input=given, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise FailedError(
            f"{Path(command[0]).name} {' '.join(command[1:3])}: {done.stdout}{done.stderr}"
        )
    return done.stdout


def check_chart(tools: Tools) -> None:
    lint = ("lint", "--strict", "--kube-version", KUBERNETES[0], str(CHART))
    tools.run("helm", *lint)
    tools.run("helm", *lint, "--values", str(FULL))
    off = [f"--set={name}.enabled=false" for name in (
        "migrate", "drift", "serve.autoscaling", "ingest.autoscaling", "networkPolicy",
        "serviceMonitor", "cronJobs.refresh", "cronJobs.audit")]  # fmt: skip
    renderings = {
        "defaults": tools.render(),
        "full": tools.render("--values", str(FULL)),
        "all off": tools.render(*off),
    }
    for name, manifests in renderings.items():
        for version in KUBERNETES:
            summary = tools.validate(manifests, version).strip().splitlines()[-1]
            say(f"chart, {name}, Kubernetes {version}: {summary}")
    # What must be refused: by the schema of the values, and by Kubernetes'.
    for wrong in ("serve.port=0", "serve.prot=8566", "cronJobs.audit.schedule=daily"):
        refused(partial(tools.render, "--set", wrong), "values don't meet")
    manifests = renderings["defaults"]
    for was, wrong in (
        ("minReplicas:", "leastReplicas:"),  # HorizontalPodAutoscaler
        ("concurrencyPolicy: Forbid", "concurrencyPolicy: [Forbid]"),
        ("    - port: metrics\n      path:", "    - prot: metrics\n      path:"),  # ServiceMonitor
    ):
        assert was in manifests, was
        broken = manifests.replace(was, wrong)
        refused(partial(tools.validate, broken, KUBERNETES[-1]), "is invalid")


def refused(act: Callable[[], object], words: str) -> None:
    """Let ``act`` fail with ``words``, or fail: a check that refuses nothing checks nothing."""
    try:
        act()
    except FailedError as error:
        if words in str(error):
            return
        raise
    raise FailedError(f"nothing refused what should have been ({words})")


def check_rendering(tools: Tools, *, render: bool) -> None:
    text = f"{HEADER}# Chart: {chart_hash()}\n{tools.render('--values', str(FULL))}"
    if render:
        RENDERED.write_text(text)
    elif RENDERED.read_text() != text:
        raise FailedError("deploy/helm/rendered.yaml is old: make lint-deploy RENDER=--render")


def check_compose(tools: Tools) -> None:
    """As Docker Compose loads them, with its variables filled in here."""
    with tempfile.TemporaryDirectory() as folder:
        for path in (ROOT / "deploy").glob("compose*.yaml"):
            text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", path.read_text())
            (Path(folder) / path.name).write_text(re.sub(r"\$\{\w+(:\?[^}]*)?\}", "x", text))
        whole = str(Path(folder) / "compose.yaml")
        with contextlib.chdir(folder):  # where it looks for what a file includes
            found = yaml.safe_load(tools.run("cmd", whole))
            say(f"compose: {', '.join(found['services'])}")
            Path(whole).write_text(Path(whole).read_text().replace("read_only:", "readonly:"))
            refused(lambda: tools.run("cmd", whole), "schema")


def main() -> None:
    """Check everything; ends with a sentence and 1 where something is wrong."""
    if (program := go()) is None:
        sys.exit("lint-deploy builds helm, kubeconform and Compose's loader with Go: install Go.")
    tools = Tools(program, cache_folder() / "deploy-tools")
    try:
        tools.prepare()
        check_chart(tools)
        check_rendering(tools, render="--render" in sys.argv)
        check_compose(tools)
    except FailedError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
