"""Retrieval jobs and training sets in a notebook: escaped, bounded, and without any query."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from extensions.stores.offline import retrieval_job
from extensions.stores.offline.join.entity_frame import EntityQuery, EntityTable
from extensions.stores.offline.join.point_in_time import Feature, JoinOptions, ViewJoin
from extensions.stores.offline.retrieval_job import SkewlessMetadata, SkewlessRetrievalJob
from extensions.stores.offline.retrieval_queries import PlainQuery, PointInTimeRequest
from extensions.training.manifest import Column, LabelsUsed, Manifest, ViewUsed
from extensions.training.training_set import TrainingSet
from tests.reports.page import Page

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a notebook's cell asked the database")

    monkeypatch.setattr(retrieval_job, "arrow_session", refuse)


def view(name: str, features: int = 1) -> ViewJoin:
    columns = tuple(Feature(*([f"{name}_{i}"] * len(Feature.__dataclass_fields__)))
                    for i in range(features))  # fmt: skip
    return ViewJoin(name, name, f"{name}_v1", (), columns, "event_timestamp", None,
                    timedelta(days=3))  # fmt: skip


def job(labels: EntityTable | EntityQuery, *views: ViewJoin) -> SkewlessRetrievalJob:
    def span() -> None:
        raise AssertionError("a notebook's cell looked for the labels' span")

    request = PointInTimeRequest(
        labels, views, JoinOptions(known_at=datetime(2026, 1, 1, tzinfo=UTC))
    )
    config: Any = SimpleNamespace()
    return SkewlessRetrievalJob(config, request, metadata=SkewlessMetadata([], [], span))


def test_a_job_shows_what_it_would_read() -> None:
    frame = pd.DataFrame({"user_id": range(1234), "event_timestamp": pd.Timestamp.now(tz="UTC")})
    page = Page(job(EntityTable.of(frame), view("user_stats"), view(HOSTILE))._repr_html_())
    assert (page.open, page.wrong, page.fetched) == ([], [], [])
    for part in ("1,234 labels", "user_id", "user_stats_v1", "3 days", "2026-01-01", ".to_df()"):
        assert part in page.text
    assert HOSTILE in page.text


def test_a_job_over_a_query_asks_nothing() -> None:
    labels = EntityQuery(f"SELECT '{HOSTILE}'", {"user_id": None}, "event_timestamp")  # type: ignore[dict-item]
    page = Page(job(labels, view("user_stats"))._repr_html_())
    assert "rows of a query" in page.text
    config: Any = SimpleNamespace()
    plain = Page(
        SkewlessRetrievalJob(config, PlainQuery(f"SELECT {HOSTILE}", "reading"))._repr_html_()
    )
    assert HOSTILE in plain.text
    assert plain.wrong == []


def test_what_is_long_is_cut() -> None:
    frame = pd.DataFrame(
        {f"c{i}": [1] for i in range(500)} | {"event_timestamp": [pd.Timestamp.now()]}
    )
    views = [view(f"view_{i}", features=300) for i in range(300)]
    html = job(EntityTable.of(frame), *views)._repr_html_()
    assert len(html) < 30_000
    text = Page(html).text
    assert "and 280 more" in text  # views
    assert "and 288 more" in text  # features of each


def manifest(columns: int = 1, warnings: int = 1) -> Manifest:
    return Manifest(
        service=HOSTILE, project="p", known_at="2026-01-01T00:00:00+00:00", bitemporal=True,
        full=False, rows=12345, first_label="2025-12-01", last_label="2025-12-31",
        labels=LabelsUsed("labels.csv", None, "00"), sha256="ab" * 32,
        views=(ViewUsed("user_stats", 2, "user_stats_v2", 0.25, 100),),
        columns=tuple(Column(f"c{i}", "double", 0.5, None) for i in range(columns)),
        warnings=tuple(f"{HOSTILE} {'x' * 1000}" for _ in range(warnings)),
    )  # fmt: skip


def test_a_training_set_shows_its_manifest_and_reads_no_file(tmp_path: Path) -> None:
    taken = TrainingSet(tmp_path / "absent.parquet", tmp_path / "absent.json", manifest())
    page = Page(taken._repr_html_())
    assert (page.open, page.wrong, page.fetched) == ([], [], [])
    for part in ("12,345 rows", "v2", "25 %", "50 %", "absent.parquet", "ab" * 32, "1 warnings"):
        assert part in page.text
    assert HOSTILE in page.text
    assert "absent.parquet" not in manifest()._repr_html_()


def test_a_long_manifest_is_cut() -> None:
    html = manifest(columns=2_000, warnings=100)._repr_html_()
    assert len(html) < 30_000
    assert "and 1,980 more" in html
    assert "and 88 more" in html
