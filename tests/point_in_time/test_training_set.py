"""Training sets as files: whole, described, and the same when they are taken again."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureService, FeatureStore, Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float32, Int64

from extensions.errors import SkewlessError
from extensions.stores.offline.join.label_coverage import CoverageWarning
from extensions.training import read_labels, read_manifest, take, take_again
from extensions.training.content_hash import ContentDigest
from tests.databases import cut
from tests.point_in_time.views import OBJECTS, OURS, names, pairs, store_at

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HALF_PAST = NOON + timedelta(minutes=30)
request = RequestSource(name="request", schema=[Field(name="bonus", dtype=Int64)])


@on_demand_feature_view(
    sources=[pairs, request], schema=[Field(name="halved", dtype=Float32)], mode="pandas"
)
def halves(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"halved": (inputs["seen"] / 2 + inputs["bonus"]).astype("float32")})


@pytest.fixture(scope="module")
def store(logs: str, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    both = FeatureService(name="both", features=[pairs, names])
    halved = FeatureService(name="halved", features=[pairs, halves])
    path = tmp_path_factory.mktemp("training") / "registry.db"
    made = store_at(logs, str(path), OURS)
    made.apply([*OBJECTS, halves, both, halved])
    return made


@pytest.fixture
def history(conn: psycopg.Connection) -> None:
    conn.execute(
        "INSERT INTO pairs_v1 SELECT g %% 50, 1, t, t, g, g, 'w', '{1,2}' FROM "
        "(SELECT g, %s::timestamptz + g * interval '1 minute' AS t FROM generate_series(1, 500) g)",
        [NOON],
    )
    conn.execute(
        "INSERT INTO names_log VALUES ('a', %s, %s, 1, NULL, true)", [HALF_PAST, HALF_PAST]
    )
    conn.execute("TRUNCATE watermarks")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.csv"
    rows = [f"{i % 60},1,{'ab'[i % 2]},2026-03-01T13:00:{i % 60:02d}Z,{i % 2}" for i in range(100)]
    path.write_text("\n".join(["user_id,item_id,name,event_timestamp,clicked", *rows]))
    return path


@pytest.mark.usefixtures("history")
class TestTrainingSets:
    def test_labels_in_parquet_and_manifest_out(
        self, store: FeatureStore, labels: Path, tmp_path: Path
    ) -> None:
        seen: list[tuple[int, int | None]] = []
        made = take(
            store,
            "both",
            read_labels(labels),
            tmp_path / "out" / "set.parquet",
            progress=lambda done, total: seen.append((done, total)),
        )
        table = pq.read_table(made.path)
        assert table.column_names == [
            "user_id", "item_id", "name", "event_timestamp", "clicked",
            "seen", "score", "word", "place", "rank", "weight", "flag",
        ]  # fmt: skip
        assert table.schema.field("place").type == pa.list_(pa.float32())
        assert seen[-1] == (100, 100)
        manifest = made.manifest
        assert manifest == read_manifest(made.path)
        assert (manifest.rows, manifest.service) == (100, "both")
        assert manifest.labels.path == "../labels.csv"
        assert [(v.view, v.table, v.default_rate) for v in manifest.views] == [
            ("pairs", "pairs_v1", sum(i % 60 >= 50 for i in range(100)) / 100),
            ("names", "names_log", 0.5),
        ]
        rates = {c.name: (c.null_rate, c.default_rate) for c in manifest.columns}
        assert rates["seen"] == (0.0, 0.1)
        assert rates["weight"] == (1.0, None)
        assert manifest.first_label == "2026-03-01T13:00:00+00:00"
        assert not list(tmp_path.rglob("*.partial"))

    def test_taken_again_it_is_the_same(
        self, store: FeatureStore, labels: Path, tmp_path: Path, conn: psycopg.Connection
    ) -> None:
        first = take(store, "both", read_labels(labels), tmp_path / "first.parquet")
        # Published since: it was not known then.
        conn.execute(
            "INSERT INTO pairs_v1 VALUES (1, 1, %s, clock_timestamp(), 999)",
            [NOON + timedelta(minutes=59)],
        )
        again = take_again(store, first.manifest_path, tmp_path / "again.parquet")
        assert again.manifest.sha256 == first.manifest.sha256
        assert pq.read_table(again.path).equals(pq.read_table(first.path))
        # Dated back: the past itself is another one now.
        past = NOON + timedelta(minutes=59, seconds=59)
        conn.execute("INSERT INTO pairs_v1 VALUES (1, 1, %s, %s, 999)", [past, past])
        with pytest.raises(SkewlessError, match="not the same any more"):
            take_again(store, first.manifest_path, tmp_path / "other.parquet")
        assert not (tmp_path / "other.parquet").exists()
        labels.write_text(labels.read_text() + "\n")
        with pytest.raises(SkewlessError, match="have changed"):
            take_again(store, first.manifest_path, tmp_path / "other.parquet")

    def test_labels_of_entities_that_a_backfill_left_out_are_counted(
        self, store: FeatureStore, labels: Path, tmp_path: Path, conn: psycopg.Connection
    ) -> None:
        """Those in the hole only: user 3 has a later row at 12:53, user 55 has no row at all."""
        conn.execute(
            "INSERT INTO backfill_refusals (view_name, version, digest, entity, since, why) VALUES "
            "('pairs', 1, 'a', '{3,1}', %(at)s, 'x'), ('pairs', 1, 'b', '{55,1}', %(at)s, 'x')",
            {"at": NOON + timedelta(minutes=10)},
        )
        made = take(store, "both", read_labels(labels), tmp_path / "set.parquet")
        used = {view.view: view for view in made.manifest.views}
        assert (used["pairs"].refused, used["names"].refused) == (1, 0)
        [said] = [w for w in made.manifest.warnings if "could not be computed" in w]
        assert said.startswith("1 of 100 labels are of entities whose values of pairs")
        assert read_manifest(made.path) == made.manifest
        frame = pd.DataFrame(
            {"user_id": [3, 55, 5], "item_id": 1, "name": "a", "event_timestamp": NOON}
        )
        frame["event_timestamp"] += pd.Timedelta(minutes=11)
        with pytest.warns(CoverageWarning, match="2 of 3 labels are of entities"):
            store.get_historical_features(frame, store.get_feature_service("both")).to_df()

    def test_from_sql_with_transforms(self, store: FeatureStore, tmp_path: Path) -> None:
        query = (
            "SELECT g AS user_id, 1 AS item_id, 1 AS bonus, "
            "timestamptz '2026-03-01 13:00Z' AS event_timestamp FROM generate_series(0, 9) AS g"
        )
        made = take(store, "halved", read_labels(query), tmp_path / "sql.parquet", full=True)
        table = pq.read_table(made.path)
        assert table.schema.field("halved").type == pa.float32()
        assert table["halved"].to_pylist() == [n / 2 + 1 for n in table["seen"].to_pylist()]
        assert table["pairs__found"].to_pylist() == [True] * 10
        again = take_again(store, made.manifest_path, tmp_path / "again.parquet")
        assert again.manifest.sha256 == made.manifest.sha256
        with pytest.raises(SkewlessError, match="needs bonus"):
            take(store, "halved", read_labels(query.replace("1 AS bonus, ", "")), tmp_path / "x")

    def test_labels_newer_than_the_log_are_a_warning(
        self, store: FeatureStore, labels: Path, tmp_path: Path, conn: psycopg.Connection
    ) -> None:
        conn.execute(
            "INSERT INTO watermarks (view_name, version, live_from, processed_through) "
            "VALUES ('pairs', 1, %(at)s, %(at)s)",
            {"at": NOON + timedelta(minutes=60, seconds=30)},
        )
        made = take(store, "both", read_labels(labels), tmp_path / "set.parquet")
        late = sum(i % 60 > 30 for i in range(100))
        assert any(
            f"{late} of 100 labels are newer than the log of pairs" in said
            for said in made.manifest.warnings
        )
        assert any("names has no watermark" in said for said in made.manifest.warnings)
        early = take(
            store,
            "both",
            read_labels(labels),
            tmp_path / "set.parquet",
            known_at=NOON + timedelta(minutes=60, seconds=10),
        )
        assert any(
            "labels are newer than 2026-03-01T13:00:10" in w for w in early.manifest.warnings
        )

    def test_a_lost_connection_leaves_no_file(
        self, store: FeatureStore, tmp_path: Path, conn: psycopg.Connection
    ) -> None:
        rows = pa.table(
            {
                "user_id": range(200_000),
                "item_id": [1] * 200_000,
                "name": ["a"] * 200_000,
                "event_timestamp": pa.array([NOON] * 200_000),
            }
        )
        pq.write_table(rows, tmp_path / "many.parquet")
        out = tmp_path / "out.parquet"
        with pytest.raises(SkewlessError, match="connection broke"):
            take(
                store,
                "both",
                read_labels(tmp_path / "many.parquet"),
                out,
                progress=lambda _done, _total: cut(conn, conn.info.dbname),
            )
        assert [path.name for path in tmp_path.iterdir()] == ["many.parquet"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("labels.txt", "come from a .csv, .parquet or .sql file"),
        ("nowhere.csv", "There is no file"),
    ],
)
def test_labels_that_cannot_be_read(source: str, says: str) -> None:
    with pytest.raises(SkewlessError, match=says):
        read_labels(source)


def test_manifests_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.manifest.json"
    for content in ("{", "{}", json.dumps({"format": 99})):
        path.write_text(content)
        with pytest.raises(SkewlessError, match="is not a training set's manifest"):
            read_manifest(path)
    with pytest.raises(SkewlessError, match="no manifest"):
        read_manifest(tmp_path / "y.parquet")


def test_no_such_service(store: FeatureStore, labels: Path, tmp_path: Path) -> None:
    with pytest.raises(SkewlessError, match="no feature service x: there are both, halved"):
        take(store, "x", read_labels(labels), tmp_path / "x.parquet")


def test_the_digest_is_of_values_not_of_chunks() -> None:
    table = pa.table(
        {
            "i": [1, None, 3],
            "s": ["a", "", None],
            "l": [[1.5], None, []],
            "b": [True, None, False],
            "t": pa.array([NOON, None, NOON + timedelta(days=1)]),
            "d": pa.array(["x", "y", None]).dictionary_encode(),
            "n": pa.nulls(3),
            "o": [{"a": 1}, None, {"a": 2}],
        }
    )

    def digest(*pieces: pa.Table) -> str:
        made = ContentDigest()
        for piece in pieces:
            made.update(piece)
        return made.hexdigest()

    whole = digest(table)
    assert digest(table.slice(0, 1), table.slice(1)) == whole
    assert digest(pa.concat_tables([table.slice(0, 2), table.slice(2)])) == whole
    seen = {whole}
    for name in table.column_names:
        place = table.schema.get_field_index(name)
        turned = table.column(name).take([2, 1, 0])
        seen.add(digest(table.set_column(place, name, turned)))
    assert len(seen) == len(table.column_names)  # all but the column of nulls
