"""The Python of docs/lake.md runs as it is written there."""

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg

from extensions.asof import Computation
from extensions.lake.catalog import _driver_url
from extensions.lake.export import export
from extensions.lake.lake_tables import _table as lake_table
from extensions.lake.lake_tables import log_in_lake
from tests.asof.loading import watch
from tests.conftest import REPO_ROOT
from tests.lake.conftest import PROJECT
from tests.lake.logs import MONTHS, append_row

if TYPE_CHECKING:
    from pyiceberg.catalog.sql import SqlCatalog


def test_the_snippets_run(
    conn: psycopg.Connection, fresh_database: str, catalog: "SqlCatalog", counts: Computation
) -> None:
    watch(conn, "an event", 7, datetime(2026, 12, 1, tzinfo=UTC), MONTHS[0])
    append_row(conn, counts, 7, MONTHS[0], 1)
    history = lake_table(conn, "watch_events", ["event_id"], "watched_at", "ingested_at")
    for table in (history, log_in_lake(conn, counts)):
        export(conn, fresh_database, catalog, PROJECT, table)
    text = (REPO_ROOT / "docs" / "lake.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) == 2
    written = "postgresql+psycopg://user:password@db.internal/features"
    assert written in snippets[0]
    seen: list[object] = []
    names: dict[str, object] = {"print": seen.append}
    for snippet in snippets:
        here = snippet.replace(written, _driver_url(fresh_database)).replace("my_project", PROJECT)
        # What a snippet's last expression gives.
        *before, last = re.split(r"\n(?=\S)(?!\))", here.strip())
        exec("\n".join(before), names)
        seen.append(eval(last, names).fetchall())
    [through, [(one,)], [(at, count)]] = seen
    assert datetime.fromisoformat(str(through)) > MONTHS[-1]
    assert (one, at, count) == (1, MONTHS[0], 1)
