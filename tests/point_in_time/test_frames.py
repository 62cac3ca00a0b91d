"""Entity frames of every kind: one row out for every row in, in order, with its own columns."""

import uuid
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pytest
from feast import FeatureStore

from extensions.errors import SkewlessError
from tests.point_in_time.views import NAMES, PAIRS

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DEFAULTS = {"seen": 0, "score": -1.5, "word": 'it\'s \\ "none"', "place": [0.5, -0.5]}


@pytest.fixture
def one_pair(conn: psycopg.Connection) -> None:
    conn.execute(
        "INSERT INTO pairs_v1 VALUES (1, 23, %(at)s, %(at)s, 7, 0.1, 'ü', '{1.5,2.5}')",
        {"at": NOON},
    )


def labels(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"user_id": [1], "item_id": [23], "event_timestamp": [NOON], **columns})


def asked(store: FeatureStore, frame: object, features: list[str] = PAIRS) -> pa.Table:
    return store.get_historical_features(entity_df=frame, features=features).to_arrow()


@pytest.mark.usefixtures("one_pair")
class TestFrames:
    def test_types_come_back_as_they_are_stored(self, ours: FeatureStore) -> None:
        table = asked(ours, labels())
        assert table.schema.field("score").type == pa.float32()
        assert table.schema.field("place").type == pa.list_(pa.float32())
        assert table.drop_columns(["event_timestamp"]).to_pylist() == [
            {
                "user_id": 1,
                "item_id": 23,
                "seen": 7,
                "score": np.float32(0.1).item(),
                "word": "ü",
                "place": [1.5, 2.5],
            }
        ]

    def test_extra_columns_order_and_duplicates_are_kept(self, ours: FeatureStore) -> None:
        frame = pd.DataFrame(
            {
                "clicked": [True, None, False, True],
                "note": pd.Categorical(["b", "a", "b", "a"]),
                "item_id": [23, 5, 23, 23],
                "user_id": [1, 9, 1, 1],
                "event_timestamp": [NOON, NOON, NOON - timedelta(microseconds=1), NOON],
                "weight": np.array([1, 2, 3, 4], dtype=np.int8),
            },
            index=[7, 7, 3, 1],
        )
        answer = ours.get_historical_features(entity_df=frame, features=["pairs:seen"]).to_df()
        assert list(answer.columns) == [*frame.columns, "seen"]
        assert answer["seen"].tolist() == [7, 0, 0, 7]
        pd.testing.assert_frame_equal(
            answer[["clicked", "note", "item_id", "user_id", "weight"]],
            frame[["clicked", "note", "item_id", "user_id", "weight"]].reset_index(drop=True),
        )

    def test_time_zones_may_be_mixed_and_naive_is_utc(self, ours: FeatureStore) -> None:
        east = timezone(timedelta(hours=5, minutes=30))
        frame = pd.DataFrame(
            {
                "user_id": [1] * 4,
                "item_id": [23] * 4,
                "event_timestamp": [
                    NOON.astimezone(east),
                    (NOON - timedelta(microseconds=1)).astimezone(east),
                    NOON.isoformat(),
                    NOON.replace(tzinfo=None).isoformat(),
                ],
            }
        )
        assert asked(ours, frame)["seen"].to_pylist() == [7, 0, 7, 7]

    def test_a_time_without_a_zone_is_utc_whatever_stands_before_it(
        self, ours: FeatureStore
    ) -> None:
        texts = [
            "2026-03-01T17:30:00+05:30",
            "2026-03-01 12:00:00",
            "2026-03-01T06:59:59.999999-0500",
            "2026-03-01T11:59:59.999999",
            "2026-03-01 12:00:00.000000Z",
            "2026-03-02",
            "2026-03-01",
        ]
        frame = pd.DataFrame({"user_id": 1, "item_id": 23, "event_timestamp": texts})
        expected = [7, 7, 0, 0, 7, 7, 0]
        assert asked(ours, frame)["seen"].to_pylist() == expected
        assert asked(ours, pa.Table.from_pandas(frame))["seen"].to_pylist() == expected
        turned = frame.iloc[::-1]
        assert asked(ours, turned)["seen"].to_pylist() == expected[::-1]

    @pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
    @pytest.mark.parametrize("zone", [None, "UTC", "Asia/Kolkata"])
    def test_arrow_tables(self, ours: FeatureStore, unit: str, zone: str | None) -> None:
        times = pa.array([NOON.replace(tzinfo=None)], pa.timestamp(unit))
        if zone:
            times = times.cast(pa.timestamp(unit, "UTC")).cast(pa.timestamp(unit, zone))
        frame = pa.table({"user_id": [1], "item_id": [23], "when": times, "x": [[{"a": 1}]]})
        answer = asked(ours, frame)
        assert answer.column_names == [
            "user_id",
            "item_id",
            "when",
            "x",
            "seen",
            "score",
            "word",
            "place",
        ]
        assert answer["seen"].to_pylist() == [7]
        assert answer["x"].to_pylist() == [[{"a": 1}]]

    def test_below_the_microsecond_a_label_does_not_see_ahead(self, ours: FeatureStore) -> None:
        times = pd.to_datetime([NOON]) - pd.Timedelta(1, "ns")
        frame = labels().assign(event_timestamp=times)
        answer = asked(ours, frame)
        assert answer["seen"].to_pylist() == [0]
        assert answer["event_timestamp"].to_pandas()[0] == times[0]

    def test_a_query_never_leaves_the_database(self, ours: FeatureStore) -> None:
        query = (
            "SELECT g AS item_id, 1::int AS user_id, 'x' || g AS extra, "
            "timestamp '2026-03-01 12:00' AS event_timestamp "
            "FROM generate_series(24, 22, -1) AS g ORDER BY g DESC;"
        )
        answer = asked(ours, query, ["pairs:seen"])
        assert answer.to_pylist() == [
            {
                "item_id": i,
                "user_id": 1,
                "extra": f"x{i}",
                "event_timestamp": NOON.replace(tzinfo=None),
                "seen": 7 if i == 23 else 0,
            }
            for i in (24, 23, 22)
        ]
        job = ours.get_historical_features(entity_df=query, features=["pairs:seen"])
        assert (job.metadata.min_event_timestamp, job.metadata.max_event_timestamp) == (NOON, NOON)

    def test_an_empty_frame_has_all_columns(self, ours: FeatureStore) -> None:
        answer = asked(ours, labels(extra="x").iloc[:0])
        assert answer.num_rows == 0
        assert answer.column_names == [
            "user_id",
            "item_id",
            "event_timestamp",
            "extra",
            "seen",
            "score",
            "word",
            "place",
        ]
        assert answer.schema.field("place").type == pa.list_(pa.float32())

    def test_a_missing_entity_has_the_declared_defaults(self, ours: FeatureStore) -> None:
        [row] = asked(ours, labels(user_id=[2])).to_pylist()
        assert {name: row[name] for name in DEFAULTS} == DEFAULTS

    def test_a_null_key_has_no_row(self, ours: FeatureStore) -> None:
        frame = labels(item_id=[None]).astype({"item_id": "float64"})
        assert asked(ours, frame)["seen"].to_pylist() == [0]
        whole = labels().astype({"item_id": "float64"})
        assert asked(ours, whole)["seen"].to_pylist() == [7]


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (labels().drop(columns="item_id"), "has no column item_id"),
        (labels().drop(columns="event_timestamp"), "event_timestamp"),
        (labels(event_timestamp=pd.to_datetime([None], utc=True)), "Row 0 .* no event_timestamp"),
        (
            labels(event_timestamp=["yesterday"]),
            "The column event_timestamp must hold a time such as .* not 'yesterday'",
        ),
        (labels(user_id=["1"]), "The key user_id must be"),
        (labels(user_id=[1.5]), "The key user_id must be"),
        (labels(user_id=np.array([2**63], dtype=np.uint64)), "The key user_id must be"),
        (labels(mixed=[object()]), "mixed types"),
    ],
    ids=["no key", "no time", "null time", "no date", "text", "fraction", "too large", "object"],
)
def test_one_sentence_names_what_is_wrong(
    ours: FeatureStore, frame: pd.DataFrame, says: str
) -> None:
    with pytest.raises(Exception, match=says):
        asked(ours, frame)


def test_a_query_without_a_key_or_with_an_error(ours: FeatureStore) -> None:
    with pytest.raises(SkewlessError, match="has no column user_id"):
        asked(ours, "SELECT 1 AS item_id, now() AS event_timestamp")
    with pytest.raises(SkewlessError, match='relation "nowhere" does not exist'):
        asked(ours, "SELECT * FROM nowhere")
    with pytest.raises(SkewlessError, match="no event_timestamp"):
        asked(ours, "SELECT 1 AS item_id, 1 AS user_id, NULL::timestamptz AS event_timestamp")


def test_keys_of_every_type(ours: FeatureStore, conn: psycopg.Connection) -> None:
    ident = uuid.uuid4()
    key = (-(2**31), b"\x00\xff", False, NOON, float("-inf"), ident)
    conn.execute(
        "INSERT INTO kinds_log VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 5)", [*key, NOON, NOON]
    )
    frame = pd.DataFrame(
        {
            "k_int": [key[0]] * 2,
            "k_bytes": [key[1]] * 2,
            "k_bool": [False, True],
            "k_time": [NOON] * 2,
            "k_float": [key[4]] * 2,
            "k_uuid": [str(ident)] * 2,
            "event_timestamp": [NOON] * 2,
        }
    )
    assert asked(ours, frame, ["kinds:kind"])["kind"].to_pylist() == [5, None]


def test_text_keys_are_exact(ours: FeatureStore, conn: psycopg.Connection) -> None:
    keys = ["", " ", "a", "A", "ä", "a\u0308", "日本", "👩‍👩‍👧", "'; --", "a" * 5000]
    for i, key in enumerate(keys):
        conn.execute("INSERT INTO names_log VALUES (%s, %s, %s, %s)", [key, NOON, NOON, i])
    frame = pd.DataFrame({"name": keys[::-1], "event_timestamp": NOON})
    assert asked(ours, frame, NAMES)["rank"].to_pylist() == list(range(len(keys)))[::-1]
