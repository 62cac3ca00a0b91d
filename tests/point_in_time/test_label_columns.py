"""Labels beside the features: names that occur twice, request fields of other types, outputs."""

import os
import stat
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore

from extensions.errors import InputError, SkewlessError
from extensions.training import read_labels, take, take_again
from extensions.training.content_hash import ContentDigest, as_stored
from monitoring.baseline import _as_taken, _read
from tests.point_in_time.test_training_set import store  # noqa: F401

AT = "2026-03-01T13:00:00Z"


def labels(path: Path, header: str, row: str) -> Path:
    path.write_text(f"{header}\n{row}\n")
    return path


def test_a_label_called_like_a_feature_is_named(store: FeatureStore, tmp_path: Path) -> None:  # noqa: F811
    path = labels(tmp_path / "l.csv", "user_id,item_id,event_timestamp,seen", f"1,1,{AT},mine")
    with pytest.raises(SkewlessError, match=r"called like what halved adds to them \(seen\)") as no:
        take(store, "halved", with_bonus(path), tmp_path / "t.parquet")
    assert isinstance(no.value, InputError)
    query = f"SELECT 1 AS user_id, 1 AS item_id, 1 AS bonus, timestamptz '{AT}' AS event_timestamp"
    for name in ("halved", "pairs__found"):
        with pytest.raises(SkewlessError, match=rf"\({name}\)"):
            take(store, "halved", read_labels(f"{query}, 2 AS {name}"), tmp_path / "t.parquet")
    assert not list(tmp_path.glob("*t.parquet*"))


def with_bonus(path: Path) -> object:
    lines = path.read_text().splitlines()
    path.write_text(f"{lines[0]},bonus\n{lines[1]},1\n")
    return read_labels(path)


def test_a_former_training_set_is_recognised(store: FeatureStore, tmp_path: Path) -> None:  # noqa: F811
    path = labels(tmp_path / "l.csv", "user_id,item_id,event_timestamp", f"1,1,{AT}")
    made = take(store, "halved", with_bonus(path), tmp_path / "t.parquet")
    with pytest.raises(SkewlessError, match="like a former training set"):
        take(store, "halved", read_labels(made.path), tmp_path / "again.parquet")


def test_a_column_twice_is_named(store: FeatureStore, tmp_path: Path) -> None:  # noqa: F811
    path = labels(
        tmp_path / "l.csv", "user_id,item_id,event_timestamp,bonus,x,x", f"1,1,{AT},1,2,3"
    )
    with pytest.raises(SkewlessError, match="more than one column x"):
        take(store, "halved", read_labels(path), tmp_path / "t.parquet")


@pytest.mark.parametrize("bonus", ["21h", "21.5", "true h", "2026-01-01"])
def test_a_request_field_of_another_type_is_named(
    store: FeatureStore,  # noqa: F811
    tmp_path: Path,
    bonus: str,
) -> None:
    path = labels(tmp_path / "l.csv", "user_id,item_id,event_timestamp,bonus", f"1,1,{AT},{bonus}")
    with pytest.raises(SkewlessError, match="The column bonus of the labels must hold Int64") as no:
        take(store, "halved", read_labels(path), tmp_path / "t.parquet")
    assert isinstance(no.value, InputError)
    assert bonus not in no.value.message
    frame = read_labels(path).rows
    with pytest.raises(SkewlessError, match="must hold Int64"):
        store.get_historical_features(frame, store.get_feature_service("halved")).to_arrow()
    query = (
        f"SELECT 1 AS user_id, 1 AS item_id, timestamptz '{AT}' AS event_timestamp, "
        f"'{bonus}'::text AS bonus"
    )
    with pytest.raises(SkewlessError, match="must hold Int64"):
        take(store, "halved", read_labels(query), tmp_path / "t.parquet")


@pytest.mark.parametrize("bonus", ["21", "21.0", ""])
def test_whole_numbers_and_nothing_are_taken(
    store: FeatureStore,  # noqa: F811
    tmp_path: Path,
    bonus: str,
) -> None:
    path = labels(tmp_path / "l.csv", "user_id,item_id,event_timestamp,bonus", f"1,1,{AT},{bonus}")
    assert take(store, "halved", read_labels(path), tmp_path / "t.parquet").manifest.rows == 1


def test_labels_behind_an_open_quotation_mark_are_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    rows = ['1,"open', "2,b", '3,12"', '4,"two\nlines"']
    path.write_text("\n".join(["user_id,title", *rows]))
    with pytest.raises(SkewlessError, match="row 2 has a quotation mark that does not enclose"):
        read_labels(path)
    path.write_text("\n".join(["user_id,title", rows[1], rows[3], rows[0]]))
    with pytest.raises(SkewlessError, match="row 4 has a quotation mark"):
        read_labels(path)
    path.write_text("\n".join(["user_id,title", rows[1], rows[3]]))
    table = read_labels(path).rows
    assert isinstance(table, pa.Table)
    assert table.to_pydict() == {"user_id": [2, 4], "title": ["b", "two\nlines"]}


MOMENT = datetime(2026, 3, 1, 12, tzinfo=UTC)
TYPES: list[pa.Array] = [
    *(pa.array([MOMENT, None], pa.timestamp(unit, zone))
      for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Europe/Berlin")),
    *(pa.array([1, None], kind) for kind in (pa.time32("s"), pa.time32("ms"), pa.time64("us"))),
    *(pa.array([date(2026, 3, 1), None], kind) for kind in (pa.date32(), pa.date64())),
    *(pa.array([1, None], kind) for kind in (pa.uint8(), pa.uint64(), pa.int16(), pa.float32())),
    *(pa.array([1, None], pa.duration(unit)) for unit in ("s", "ns")),
    *(pa.array(["a", None], kind) for kind in (pa.string(), pa.large_string())),
    pa.array(["a", None]).dictionary_encode(),
    pa.array([b"a", None], pa.binary()),
    pa.array([b"ab", None], pa.binary(2)),
    pa.array([Decimal("1.50"), None]),
    pa.array([True, None]),
    pa.nulls(2),
    pa.array([[MOMENT], None], pa.list_(pa.timestamp("s"))),
    pa.array([[1.5], []], pa.list_(pa.float32())),
]  # fmt: skip


@pytest.mark.parametrize("values", TYPES, ids=lambda values: str(values.type))
def test_the_hash_is_of_what_the_file_gives_back(tmp_path: Path, values: pa.Array) -> None:
    table = as_stored(pa.table({"x": values}))
    pq.write_table(table, tmp_path / "t.parquet")
    written, read = ContentDigest(), ContentDigest()
    written.update(table)
    read.update(_as_taken(pq.read_table(tmp_path / "t.parquet")))
    assert written.hexdigest() == read.hexdigest()


def test_outputs_never_take_the_place_of_a_pipe(store: FeatureStore, tmp_path: Path) -> None:  # noqa: F811
    path = labels(tmp_path / "l.csv", "user_id,item_id,event_timestamp", f"1,1,{AT}")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(SkewlessError, match="a pipe or a device") as no:
        take(store, "halved", with_bonus(path), pipe)
    assert isinstance(no.value, InputError)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    real = tmp_path / "real.parquet"
    link = tmp_path / "link.parquet"
    link.symlink_to(real)
    take(store, "halved", read_labels(path), link)
    assert link.is_symlink()
    assert pq.read_table(real).num_rows == 1


UNITS = ("s", "ms", "us", "ns")
ZONES = (None, "UTC", "Asia/Tokyo")


def with_times(path: Path, unit: str, zone: str | None) -> Path:
    """Labels whose event time is of that type, beside a column of each type of time."""
    at = pa.array([MOMENT, MOMENT], pa.timestamp(unit, zone))
    others = {
        f"{one}_{other or 'naive'}": pa.array([MOMENT, None], pa.timestamp(one, other))
        for one in UNITS
        for other in ZONES
    }
    keys = {"user_id": [1, 2], "item_id": [1, 1], "bonus": [1, 1]}
    pq.write_table(pa.table({**keys, "event_timestamp": at, **others}), path)
    return path


def in_csv(path: Path, text: str) -> Path:
    path.write_text(f"user_id,item_id,bonus,event_timestamp,clicked_at\n1,1,1,{text},{text}\n")
    return path


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("zone", ZONES)
def test_a_set_of_any_times_can_be_a_baseline_and_be_taken_again(
    store: FeatureStore,  # noqa: F811
    tmp_path: Path,
    unit: str,
    zone: str | None,
) -> None:
    labels_of(store, with_times(tmp_path / "labels.parquet", unit, zone), rows=2)


@pytest.mark.parametrize(
    "text",
    ["2026-03-01 12:00:00", "2026-03-01T12:00:00Z", "2026-03-01 12:00:00.5", "2026-03-01",
     "2026-03-01T12:00:00+05:30", "2026-03-01 12:00:00.123456789"],
)  # fmt: skip
def test_a_csvs_set_can_be_a_baseline_and_be_taken_again(
    store: FeatureStore,  # noqa: F811
    tmp_path: Path,
    text: str,
) -> None:
    labels_of(store, in_csv(tmp_path / "labels.csv", text), rows=1)


def labels_of(store: FeatureStore, path: Path, rows: int) -> None:  # noqa: F811
    """Take a set of these labels, read it as a baseline's is, and take it again."""
    made = take(store, "halved", read_labels(path), path.parent / "t.parquet")
    assert _read(made.path, made.manifest).num_rows == rows
    again = take_again(store, made.manifest_path, path.parent / "again.parquet")
    assert again.manifest.sha256 == made.manifest.sha256
    assert _read(again.path, again.manifest).num_rows == rows
