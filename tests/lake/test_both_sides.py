"""The join over both sides of a cut is the join over a log that was never cut, bit by bit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest
from feast import RepoConfig
from feast.types import Array, Decimal, Float32, Int64, String
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from extensions.lake.catalog import open_catalog
from extensions.lake.cut import cut
from extensions.lake.export import export
from extensions.lake.lake_tables import _table as lake_table
from extensions.lake.reader import LakeReader
from extensions.lake.settings import read_settings
from extensions.stores.offline.arrow.adbc_session import arrow_session
from extensions.stores.offline.join.entity_frame import EntityQuery, EntityTable
from extensions.stores.offline.join.point_in_time import Feature, JoinOptions, Key, ViewJoin
from extensions.stores.offline.retrieval_queries import PointInTimeRequest
from tests.lake.conftest import PROJECT
from tests.lake.logs import MONTHS, monthly
from tests.point_in_time.oracle import Label, LogRow, answers
from tests.point_in_time.test_join import bits
from tests.point_in_time.views import OURS, store_at

if TYPE_CHECKING:
    from pyiceberg.catalog.sql import SqlCatalog

HOUR = timedelta(hours=1)
COLUMNS = ("n", "score", "word", "place", "price")
DEFAULTS = (0, None, "none", None, None)


@dataclass(frozen=True)
class Place:
    """A database with a lake, and a number for each log that is made in it."""

    conn: psycopg.Connection
    url: str
    catalog: "SqlCatalog"
    config: RepoConfig
    repository: Path
    numbers: "count[int]"

    def reader(self) -> LakeReader:
        return LakeReader(self.repository, self.url, PROJECT)


@pytest.fixture(scope="module")
def place(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("repository")
    (folder / "feature_store.yaml").write_text(f"project: {PROJECT}\nlake: {{warehouse: lake}}\n")
    config = store_at(database, str(folder / "registry.db"), OURS).config
    with (
        pytest.MonkeyPatch.context() as patch,
        psycopg.connect(database, autocommit=True) as conn,
        open_catalog(database, PROJECT, read_settings(folder)) as catalog,
    ):
        conn.execute("SET timezone = 'UTC'")
        # Each label is a part of its own, so that no other's rows of the lake make up for its own.
        for name in ("FEWEST", "MOST"):
            patch.setattr(f"extensions.stores.offline.join.parallel_join.{name}", 1)
        yield Place(conn, database, catalog, config, folder, count(1))


def make_log(place: Place, name: str) -> None:
    place.conn.execute(
        f'CREATE TABLE {name} (user_id bigint NOT NULL, shop text COLLATE "C" NOT NULL, '
        "event_timestamp timestamptz NOT NULL, created_timestamp timestamptz NOT NULL, "
        "n bigint, score real, word text, place real[], price numeric) "
        "PARTITION BY RANGE (event_timestamp)"
    )
    place.conn.execute(
        f"CREATE UNIQUE INDEX ON {name} "
        "(user_id, shop, event_timestamp DESC, created_timestamp DESC)"
    )
    monthly(place.conn, name)


def write(place: Place, name: str, rows: Sequence[LogRow]) -> None:
    for row in rows:
        place.conn.execute(
            f"INSERT INTO {name} VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [*row.keys, row.event, row.created, *row.features],
        )


def join_of(name: str, ttl: timedelta | None) -> ViewJoin:
    types = (Int64, Float32, String, Array(Float32), Decimal)
    defaults = ("0", None, "none", None, None)
    return ViewJoin(
        name=name,
        label=name,
        table=name,
        keys=(Key("user_id", "user_id", Int64), Key("shop", "shop", String)),
        features=tuple(
            Feature(column, column, default, dtype in (String, Decimal), column, dtype)
            for column, dtype, default in zip(COLUMNS, types, defaults, strict=True)
        ),
        event_time="event_timestamp",
        created_time="created_timestamp",
        ttl=ttl,
    )


def ask(
    place: Place,
    view: ViewJoin,
    labels: Sequence[Label],
    options: JoinOptions,
    lake: LakeReader | None,
    *,
    by_query: bool = False,
) -> list[tuple[Any, ...]]:
    with arrow_session(place.config, "asking") as session:
        given: EntityTable | EntityQuery
        if by_query:
            rows = " UNION ALL ".join(
                f"SELECT {i} AS i, '{label.keys[0]}'::bigint AS user_id, "
                f"'{label.keys[1]}' AS shop, "
                f"'{label.at.isoformat()}'::timestamptz AS event_timestamp"
                for i, label in enumerate(labels)
            )
            given = EntityQuery.of(f"{rows} ORDER BY i", session)
        else:
            given = EntityTable.of(
                pa.table(
                    {
                        "user_id": [label.keys[0] for label in labels],
                        "shop": [label.keys[1] for label in labels],
                        "event_timestamp": pa.array(
                            [label.at for label in labels], pa.timestamp("us", "UTC")
                        ),
                    }
                )
            )
        request = PointInTimeRequest(given, (view,), options, lake=lake)
        table = pa.concat_tables(list(request.chunks(session)))
    return list(zip(*(table[column].to_pylist() for column in COLUMNS), strict=True))


moments = st.builds(
    lambda month, hours, ticks: month + hours * HOUR + ticks * timedelta(microseconds=1),
    st.sampled_from(MONTHS),
    st.sampled_from([-24, -1, 0, 0, 1, 48]),
    st.sampled_from([-1, 0, 0, 1]),
)
keys = st.tuples(st.sampled_from([1, -(2**63)]), st.sampled_from(["é", "B"]))
values = st.tuples(
    st.sampled_from([None, 0, 7, 2**63 - 1]),
    st.sampled_from([None, 0.1, float("nan"), float("-inf")]).map(
        lambda value: None if value is None else pa.scalar(value, pa.float32()).as_py()
    ),
    st.sampled_from([None, "", "ü'\\"]),
    st.sampled_from([None, [0.5, -1.5], []]),
    st.sampled_from([None, "1.50", "12345678901234567890.123456789"]),
)
rows = st.lists(
    st.builds(LogRow, keys, moments, moments, values),
    min_size=12,
    max_size=30,
    unique_by=lambda row: (row.keys, row.event, row.created),
)


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[LogRow], list[LogRow], list[datetime], list[Label]]:
    """Rows before the first cut and after it, two cuts, and labels on all sides of them."""
    first = draw(rows)
    taken = {(row.keys, row.event, row.created) for row in first}
    second = [r for r in draw(rows) if (r.keys, r.event, r.created) not in taken]
    cuts = sorted(draw(st.lists(st.sampled_from(MONTHS), min_size=2, max_size=2)))
    labels = draw(st.lists(st.builds(Label, keys, moments), min_size=15, max_size=25))
    return first, second, cuts, labels


@given(
    life=lives(),
    ttl=st.sampled_from([None, None, 36 * HOUR]),
    bitemporal=st.sampled_from([True, True, False]),
    known_at=st.sampled_from([None, None, None, *MONTHS]),
)
@settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # a failure is told as it is: shrinking it would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_cutting_changes_no_answer(
    place: Place,
    life: tuple[list[LogRow], list[LogRow], list[datetime], list[Label]],
    ttl: timedelta | None,
    bitemporal: bool,
    known_at: datetime | None,
) -> None:
    first, second, cuts, labels = life
    name = f"log_{next(place.numbers)}_v1"
    options = JoinOptions(bitemporal=bitemporal, known_at=known_at)
    for log in (name, f"{name}_whole"):
        make_log(place, log)
    table = lake_table(
        place.conn, name, ["user_id", "shop"], "event_timestamp", "created_timestamp"
    )
    whole: list[LogRow] = []
    for batch, before in zip((first, second), cuts, strict=True):
        write(place, name, batch)
        write(place, f"{name}_whole", batch)
        whole += batch
        export(place.conn, place.url, place.catalog, PROJECT, table)
        cut(place.conn, place.url, place.catalog, PROJECT, table, before)
    expected = bits(
        answers(whole, labels, DEFAULTS, ttl=ttl, bitemporal=bitemporal, known_at=known_at)
    )
    uncut = ask(place, join_of(f"{name}_whole", ttl), labels, options, None)
    assert as_text(bits(uncut)) == as_text(expected)
    both = ask(place, join_of(name, ttl), labels, options, place.reader())
    assert bits(both) == bits(uncut)
    asked = ask(place, join_of(name, ttl), labels, options, place.reader(), by_query=True)
    assert bits(asked) == bits(uncut)


def as_text(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """With decimals as texts, as which the oracle has them."""
    return [tuple(None if v is None else str(v) for v in row) for row in rows]
