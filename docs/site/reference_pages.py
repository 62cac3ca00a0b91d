"""The reference pages that are made from the code: command line, HTTP, settings, metrics."""

import ast
import dataclasses
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from extensions.lake.settings import LakeSettings
from extensions.serving.http.openapi import Subject, document
from extensions.serving.observability.prometheus_metrics import Metrics
from extensions.serving.settings import Settings as ServerSettings
from streaming.settings import Settings as WorkerSettings
from streaming.worker_metrics import MetricFamilies

ROOT = Path(__file__).parents[2]
# Name, type, labels, what it says.
Family = tuple[str, str, tuple[str, ...], str]
ROOMS = ("extensions", "streaming", "monitoring")


def write(folder: Path) -> None:
    """Write all pages."""
    pages = {
        "command-line.md": command_line_page(),
        "metrics.md": metrics_page(),
        "settings.md": settings_page(),
        "http.md": http_page(),
    }
    for name, text in pages.items():
        (folder / name).write_text(text)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    names = list(head)
    lines = [names, ["---"] * len(names), *map(list, rows)]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def command_line_page() -> str:
    """Every command with its arguments and options, by Typer's own generator."""
    asked = [sys.executable, "-m", "typer", "extensions.cli.app", "utils", "docs"]
    done = subprocess.run(
        [*asked, "--name", "skewless", "--title", "Command line"],
        cwd=ROOT, env=os.environ | {"TERM": "dumb"}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout


def metrics_page() -> str:
    """Every metric: of servers, workers and the exporter of ``skewless drift``."""
    parts = [
        (
            "# Metrics\n\nEvery Prometheus metric, by the program that exports it. Counters have "
            "the suffix `_total`, histograms `_bucket`, `_sum` and `_count`. What to watch, and "
            "alert rules: [monitoring](../monitoring.md).\n"
        ),
    ]
    programs = (
        ("HTTP server (`skewless serve`, `/metrics`)", Metrics(several=False).registry),
        ("Stream worker (`skewless ingest --metrics-port`)", MetricFamilies().registry),
    )
    for title, registry in programs:
        parts.append(f"\n## {title}\n\n" + _metrics_table(registered_families(registry)))
    parts.append(
        "\n## Views, tables, drift, audits (`skewless drift watch --metrics-port`)\n\n"
        + _metrics_table(exported_families())
    )
    return "".join(parts)


def _metrics_table(families: Iterable[Family]) -> str:
    rows = [
        (f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels), text)
        for name, kind, labels, text in families
    ]
    return table(("metric", "type", "labels", "what it says"), rows)


def registered_families(registry: CollectorRegistry) -> list[Family]:
    """What is registered, by name. A metric tells its labels by samples only, and has none yet."""
    found = []
    for metric in registry._collector_to_names:  # noqa: SLF001
        [family] = metric.collect()
        labels = getattr(metric, "_labelnames", ())
        found.append((family.name, family.type, tuple(labels), family.documentation))
    return sorted(found)


def exported_families() -> list[Family]:
    """The families that the exporter builds at each scrape."""
    source = (ROOT / "monitoring" / "prometheus_exporter.py").read_text()
    found = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        if node.func.id not in ("GaugeMetricFamily", "CounterMetricFamily"):
            continue
        name, text = (ast.literal_eval(argument) for argument in node.args[:2])
        kind = node.func.id.removesuffix("MetricFamily").lower()
        labels = [ast.literal_eval(key.value) for key in node.keywords if key.arg == "labels"]
        found.append((name, kind, tuple(labels[0]) if labels else (), text))
    return sorted(found)


def settings_page() -> str:
    """Environment variables, and the settings of servers, workers and the lake."""
    parts = [
        (
            "# Settings\n\nThe command line's options come first "
            "([command line](command-line.md)), then the environment, then "
            "`feature_store.yaml`.\n\n"
        ),
        "## Environment variables\n\n",
        table(("variable", "read by"), environment_variables()),
    ]
    for title, kind in (
        ("HTTP server", ServerSettings),
        ("Stream worker", WorkerSettings),
        ("The lake (`lake:` of `feature_store.yaml`)", LakeSettings),
    ):
        rows = [
            (f"`{each.name}`", f"`{_type(each.type)}`", _default(each))
            for each in dataclasses.fields(kind)
        ]
        parts.append(f"\n## {title}\n\n{inspect.getdoc(kind)}\n\n".replace("``", "`"))
        parts.append(table(("setting", "type", "default"), rows))
    return "".join(parts)


def environment_variables() -> list[tuple[str, str]]:
    """Each variable of ours, and the modules that name it."""
    found: dict[str, set[str]] = {}
    for path in code():
        for name in re.findall(r"\"(SKEWLESS_[A-Z_]+)\"", path.read_text()):
            found.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    return [(f"`{name}`", ", ".join(f"`{each}`" for each in sorted(found[name])))
            for name in sorted(found)]  # fmt: skip


def code() -> Iterator[Path]:
    """All modules."""
    for room in ROOMS:
        yield from sorted((ROOT / room).rglob("*.py"))


def _type(kind: Any) -> str:
    return kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default}`"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory()}`"
    return "must be given"


def http_page() -> str:
    """Our routes, from the OpenAPI document that the server serves."""
    described = document(Subject(ServerSettings(repo=ROOT), {}))
    parts = [
        (
            "# HTTP routes\n\nFrom the OpenAPI document that a server serves at "
            "`/v1/openapi.json`; there the features of the repository's own services are typed, "
            "too. Feast's routes are in `/openapi.json`. What they mean: "
            "[serving](../serving.md).\n"
        ),
    ]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts.append(f"\n## {method.upper()} `{path}`\n\n")
            parts += [
                f"{operation[key]}\n\n" for key in ("summary", "description") if operation.get(key)
            ]
            parameters = [
                (f"`{each['name']}`", each["in"], "yes" if each.get("required") else "no",
                 each.get("description", ""))
                for each in operation.get("parameters", [])
            ]  # fmt: skip
            if parameters:
                parts.append(
                    table(("parameter", "in", "required", "what it is"), parameters) + "\n"
                )
            answers = [
                (status, each.get("description", ""))
                for status, each in operation["responses"].items()
            ]
            parts.append(table(("status", "when"), answers))
    return "".join(parts)
