"""Definitions that would be misread are refused when they are read, in one sentence each."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from feast import Entity, FeatureView, Field, PushSource, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.repo_contents import RepoContents
from feast.types import (
    Array,
    Bool,
    Bytes,
    Decimal,
    Float32,
    Int32,
    Int64,
    Json,
    String,
    UnixTimestamp,
    Uuid,
)

from extensions.asof import Computation
from extensions.asof.computation_loading import computations_in
from extensions.asof.definition_validation import check_sources
from extensions.asof.feature_log_tables import ensure_log_tables
from extensions.database.identifier_limits import BACKFILLED, LONGEST_NAME, bounded_name
from extensions.errors import SkewlessError

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
TAGS = {"freshness": "daily", "horizon": "7 days", "reads": "events"}


def contents(
    name: str = "spending",
    tags: dict[str, str] | None = None,
    field: Field | None = None,
    keys: str = "user_id",
    more: list[Any] | None = None,
    source_tags: dict[str, str] | None = None,
) -> RepoContents:
    log = PostgreSQLSource(
        name=f"{name}_v1",
        table=f"{name}_v1",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    events = PostgreSQLSource(
        name="events", table="events", timestamp_field="at",
        tags={"keys": keys, **(source_tags or {})},
    )  # fmt: skip
    view = FeatureView(
        name=name,
        version="v1",
        entities=[user],
        ttl=timedelta(0),
        schema=[
            Field(name="user_id", dtype=Int64),
            field or Field(name="spent", dtype=Int64, tags={"default": "0"}),
        ],
        source=PushSource(name=f"{name}_push", batch_source=log),
        tags=TAGS | (tags or {}),
    )
    view.entity_columns = [Field(name="user_id", dtype=Int64)]
    view.features = [one for one in view.features if one.name != "user_id"]
    return RepoContents(
        projects=[], data_sources=[events, log], entities=[user], feature_services=[],
        feature_views=[view, *(more or [])], on_demand_feature_views=[], stream_feature_views=[],
        permissions=[], label_views=[],
    )  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "feature_repo" / "computations"
    folder.mkdir(parents=True)
    for name in ("spending", "s" * 60):
        (folder / f"{name}.v1.sql").write_text("SELECT user_id, as_of, 0 AS spent FROM spine")
    return tmp_path


def read(root: Path, **changes: Any) -> Computation:
    [computation] = computations_in(contents(**changes), root).values()
    return computation


def test_tags_of_the_users_own_are_left_alone(root: Path) -> None:
    own = {"team": "growth", "owner": "ann", "tier": "1", "year": "2026", "color": "red"}
    assert read(root, tags=own).horizon == timedelta(days=7)


@pytest.mark.parametrize(
    ("tag", "meant"),
    [("horizn", "horizon"), ("Horizon", "horizon"), ("horzion", "horizon"), ("decay", "decays"),
     ("fresness", "freshness"), ("read", "reads"), ("near ", "near"), ("reads_", "reads")],
)  # fmt: skip
def test_a_misspelt_tag_is_asked_about(root: Path, tag: str, meant: str) -> None:
    with pytest.raises(SkewlessError, match=f"View spending .*did you mean {meant}"):
        read(root, tags={tag: "true"})


def test_misspelt_tags_of_fields_and_sources(root: Path) -> None:
    field = Field(name="spent", dtype=Int64, tags={"default": "0", "defalt": "1"})
    with pytest.raises(SkewlessError, match=r"Field spending:spent .*did you mean default"):
        read(root, field=field)
    with pytest.raises(SkewlessError, match=r"Source events .*did you mean keys"):
        read(root, source_tags={"key": "user_id"})


@pytest.mark.parametrize("value", ["True", "yes", "1", "", "TRUE", " true"])
@pytest.mark.parametrize("tag", ["decays", "near"])
def test_true_is_spelt_one_way(root: Path, tag: str, value: str) -> None:
    with pytest.raises(SkewlessError, match=f'tag {tag} of view spending must be "true"'):
        read(root, tags={tag: value})
    assert read(root, tags={"decays": "false"}).decays is False
    assert read(root, tags={"decays": "true"}).decays is True


def test_spaces_between_names_do_not_count(root: Path) -> None:
    [events] = read(root, keys=" user_id , item_id", tags={"reads": " events "}).reads
    assert events.keys == ("user_id", "item_id")


@pytest.mark.parametrize("keys", ["", " ", "user_id,,x", "user_id,", "user_id,user_id"])
def test_keys_that_name_nothing_or_twice(root: Path, keys: str) -> None:
    with pytest.raises(SkewlessError, match="tag keys of source events"):
        read(root, keys=keys)


@pytest.mark.parametrize(
    ("tags", "sentence"),
    [({"reads": "event"}, "Did you mean events"), ({"reads": "events,events"}, "each once"),
     ({"reads": "payments"}, "names payments"), ({"horizon": "0 days"}, "must read like"),
     ({"horizon": "7d"}, "must read like"), ({"horizon": "99999999 days"}, "must read like"),
     ({"freshness": "weekly"}, "must be realtime")],
)  # fmt: skip
def test_tags_that_do_not_parse(root: Path, tags: dict[str, str], sentence: str) -> None:
    with pytest.raises(SkewlessError, match=sentence):
        read(root, tags=tags)


@pytest.mark.parametrize("name", ["Spending", "spend-ing", "spend%ing", "spend'ing", "9lives", "ü"])
def test_names_that_cannot_be_a_tables(root: Path, name: str) -> None:
    with pytest.raises(SkewlessError, match="computed into a table of its name"):
        read(root, name=name)


@pytest.mark.parametrize(
    "name", ["sp ent", "sp%ent", "sp'ent", "sp-ent", "as_of", BACKFILLED, "x" * 64]
)
def test_names_that_cannot_be_a_columns(root: Path, name: str) -> None:
    with pytest.raises(SkewlessError, match=f"spending:{name}"):
        read(root, field=Field(name=name, dtype=Int64, tags={"default": "0"}))


def test_a_log_whose_name_would_be_cut(root: Path) -> None:
    with pytest.raises(SkewlessError, match="of which PostgreSQL keeps 63"):
        read(root, name="s" * 61)


def test_the_indexes_of_a_long_name_are_two(root: Path, fresh_database: str) -> None:
    """Both were cut to one name, and the second could not be made."""
    computation = read(root, name="s" * 60)
    with psycopg.connect(fresh_database, autocommit=True) as conn:
        assert ensure_log_tables(conn, [computation]) == [computation.log_table]
        names = conn.execute(
            "SELECT indexname FROM pg_indexes WHERE tablename = %s", [computation.log_table]
        ).fetchall()
    assert len(names) == 2


def test_bounded_names_differ_where_long_names_do() -> None:
    names = {"ü" * 40 + str(i) for i in range(50)} | {"x" * 63, "x" * 64}
    made = {bounded_name(name) for name in names}
    assert len(made) == len(names)
    assert max(len(name.encode()) for name in made) <= LONGEST_NAME


@pytest.mark.parametrize(
    ("dtype", "default"),
    [(Int64, '"5"'), (Int64, "5.7"), (Int64, "true"), (Int32, "3000000000"), (Int64, "[1]"),
     (Float32, '"0.5"'), (Float32, "1e300"), (Float32, "NaN"),
     (String, "300"), (Bool, "1"), (Bool, '"true"'),
     (UnixTimestamp, '"yesterday"'), (UnixTimestamp, "1.5"), (Uuid, '"x"'), (Decimal, '"x"'),
     (Bytes, "5"), (Json, '"{"'), (Array(Int64), "5"), (Array(Int64), "[1, null]"),
     (Array(Float32), '["a"]'), (Array(Array(Int64)), "[1]"), (Int64, "{"), (Int64, "0 ,")],
)  # fmt: skip
def test_a_default_that_does_not_fit(root: Path, dtype: Any, default: str) -> None:
    field = Field(name="spent", dtype=dtype, tags={"default": default})
    with pytest.raises(SkewlessError, match="default of spending:spent"):
        read(root, field=field)


def test_a_view_named_like_a_version(root: Path) -> None:
    other = FeatureView(
        name="spending_v2", entities=[user], schema=[Field(name="x", dtype=Int64)],
        source=PostgreSQLSource(name="s", table="s", timestamp_field="at"),
    )  # fmt: skip
    with pytest.raises(SkewlessError, match="spending_v2 has the name of a version of view spend"):
        read(root, more=[other])


def test_keys_that_are_no_columns(root: Path, fresh_database: str) -> None:
    computation = read(root)
    with psycopg.connect(fresh_database, autocommit=True) as conn:
        with pytest.raises(SkewlessError, match="table events of a history source is not there"):
            check_sources(conn, [computation])
        conn.execute('CREATE TABLE events (user_id bigint, at timestamptz, "Odd-%name" text)')
        check_sources(conn, [computation])
        [events] = computation.reads
        odd = replace(events, keys=("usr_id",))
        with pytest.raises(SkewlessError, match=r"names usr_id.* Did you mean user_id"):
            check_sources(conn, [replace(computation, reads=(odd,))])
