# ruff: noqa: INP001 (a script)
"""Makes Grafana's dashboards from `dashboards.yaml`: ``python deploy/grafana/render.py``.

The JSON beside this file is what Grafana imports or is provisioned with; a test renders it again.
"""

import json
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
_WIDTH, _HEIGHT, _COLUMNS = 12, 8, 24
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def declared() -> dict[str, Any]:
    """The dashboards of `dashboards.yaml`, by the names of their files."""
    found: dict[str, Any] = yaml.safe_load((HERE / "dashboards.yaml").read_text())
    return found


def rendered(name: str, dashboard: dict[str, Any]) -> str:
    """A dashboard as Grafana's JSON, schema version 39 (Grafana 11 and later)."""
    panels = [_panel(number, panel) for number, panel in enumerate(dashboard["panels"])]
    return (
        json.dumps(
            {
                "uid": f"skewless-{name}",
                "title": dashboard["title"],
                "description": dashboard["describe"],
                "tags": ["skewless"],
                "schemaVersion": 39,
                "editable": True,
                "graphTooltip": 1,  # one moment is marked in all panels
                "refresh": "30s",
                "time": {"from": "now-6h", "to": "now"},
                "timezone": "browser",
                "links": [
                    {"type": "dashboards", "tags": ["skewless"], "title": "Skewless",
                     "asDropdown": True, "keepTime": True}
                ],
                "templating": {
                    "list": [
                        {"name": "datasource", "label": "Prometheus", "type": "datasource",
                         "query": "prometheus"}
                    ]
                },
                "panels": panels,
            },
            indent=1,
        )
        + "\n"
    )  # fmt: skip


def _panel(number: int, panel: dict[str, Any]) -> dict[str, Any]:
    across = _COLUMNS // _WIDTH
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel["title"],
        "description": panel["describe"],
        "datasource": _SOURCE,
        "gridPos": {
            "x": number % across * _WIDTH,
            "y": number // across * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {
            "defaults": {"unit": panel["unit"], "custom": {"fillOpacity": 8}},
            "overrides": [],
        },
        "options": {
            "legend": {
                "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend,
             "datasource": _SOURCE}
            for place, (legend, query) in enumerate(panel["queries"].items())
        ],
    }  # fmt: skip


def main() -> None:
    """Write every dashboard's file."""
    for name, dashboard in declared().items():
        (HERE / f"{name}.json").write_text(rendered(name, dashboard))


if __name__ == "__main__":
    main()
