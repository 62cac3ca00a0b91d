"""Training applies the transform that was served: by each label's moment, or the one named."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import Field, RequestSource
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.transformation.pandas_transformation import PandasTransformation
from feast.types import Float32, Int64, PrimitiveFeastType, String

from extensions.errors import SkewlessError
from extensions.stores.offline.join.label_coverage import CoverageWarning
from extensions.stores.offline.join.versioned_transforms import ServedTransform, Version
from extensions.training.label_source import read_labels
from extensions.training.training_set import take, take_again
from extensions.versions.promotion import promote, rollback
from extensions.versions.retirement import retire
from tests.versions.conftest import World, between_moves

# Nobody's habits are known: the preferred hour is the default, 20.
ROW = {"user_id": 404, "item_id": 405, "request_hour": 8}
V1, V2 = 'version="v1"', 'version="v2"'


def second_signals(world: World) -> None:
    """A second version of ranking_signals: closeness falls half as fast."""
    world.repository.edit("transforms.py", V1, V2)
    world.repository.edit("transforms.py", "apart, 24 - apart) / 12", "apart, 24 - apart) / 24")


def served(
    world: World, feature: str = "hour_closeness", row: dict[str, Any] = ROW
) -> tuple[datetime, Any]:
    """A moment, and what the ranking service serves at it."""
    store = world.store()
    service = store.get_feature_service("ranking")
    answer = store.get_online_features(features=service, entity_rows=[row]).to_dict()
    return between_moves(), answer[feature][0]


def labels(at: list[datetime], **columns: Any) -> pd.DataFrame:
    return pd.DataFrame(
        [{**ROW, "event_timestamp": moment, "label": i} for i, moment in enumerate(at)]
    ).assign(**columns)


def joined(world: World, at: list[datetime], *refs: str, **columns: Any) -> pd.DataFrame:
    store = world.store()
    features: Any = list(refs) or store.get_feature_service("ranking")
    return store.get_historical_features(entity_df=labels(at, **columns), features=features).to_df()


def test_each_label_gets_the_transform_that_was_served_then(world: World) -> None:
    second_signals(world)
    world.apply()
    known = [served(world)]
    for _ in range(2):
        promote(world.conn, "skewless", "ranking_signals", 2)
        known.append(served(world))
        rollback(world.conn, "skewless", "ranking_signals")
        known.append(served(world))
    moments, values = [at for at, _ in known], [value for _, value in known]
    # |8 - 20| hours apart: 1 - 12/12, and 1 - 12/24.
    assert values == [0.0, 0.5, 0.0, 0.5, 0.0]

    rows = joined(world, moments)
    assert rows["hour_closeness"].tolist() == values
    assert rows["hour_closeness"].dtype == "float32"
    assert rows["label"].tolist() == [0, 1, 2, 3, 4]
    assert not [name for name in rows.columns if name.startswith("_")]
    # In whatever order they come, and long before the first move.
    old = datetime(2020, 1, 1, tzinfo=UTC)
    with pytest.warns(CoverageWarning, match="1 of 6 labels are older than the log"):
        rows = joined(world, [*reversed(moments), old], "ranking_signals:hour_closeness")
    assert rows["hour_closeness"].tolist() == [*reversed(values), 0.0]
    # A named version means that one at all moments.
    for version, value in ((1, 0.0), (2, 0.5)):
        rows = joined(world, moments, f"ranking_signals@v{version}:hour_closeness")
        assert rows.iloc[:, -1].tolist() == [value] * 5
    # Full names, and labels that are a query.
    store = world.store()
    query = " UNION ALL ".join(
        f"SELECT 404::bigint AS user_id, 405::bigint AS item_id, 8::bigint AS request_hour, "
        f"{i} AS label, timestamptz '{at.isoformat()}' AS event_timestamp"
        for i, at in enumerate(moments)
    )
    rows = store.get_historical_features(
        entity_df=query, features=["ranking_signals:hour_closeness"], full_feature_names=True
    ).to_df()
    assert rows["ranking_signals__hour_closeness"].tolist() == [values[i] for i in rows["label"]]
    # Piece by piece.
    pieces = store.get_historical_features(
        entity_df=labels(moments * 5_000), features=store.get_feature_service("ranking")
    ).to_batches()
    found = [value for piece in pieces for value in piece["hour_closeness"].to_pylist()]
    assert found == values * 5_000


def test_a_retired_version_is_still_known(world: World) -> None:
    second_signals(world)
    world.apply()
    before = served(world)
    promote(world.conn, "skewless", "ranking_signals", 2)
    after = served(world)
    retire(world.store(), world.conn, "ranking_signals", 1)
    rows = joined(world, [before[0], after[0]])
    assert rows["hour_closeness"].tolist() == [before[1], after[1]] == [0.0, 0.5]


def test_a_view_and_its_transform_move_apart(world: World) -> None:
    """The old transform on the new view's values, and the other way round."""
    path = world.repository.path("computations/user_habits.v2.sql")
    first = world.repository.path("computations/user_habits.v1.sql").read_text()
    path.write_text(first.replace("coalesce(h.preferred_hour, 20::bigint)", "2::bigint"))
    world.repository.name_version("user_habits", 2)
    second_signals(world)
    world.apply()
    row = {**ROW, "user_id": 1}
    known = [served(world, row=row)]
    for view in ("ranking_signals", "user_habits"):
        promote(world.conn, "skewless", view, 2)
        known.append(served(world, row=row))
    rollback(world.conn, "skewless", "ranking_signals")
    known.append(served(world, row=row))
    # Six hours from 2 to 8: 1 - 6/24 after both moves, 1 - 6/12 with the old transform again.
    assert [value for _, value in known[2:]] == [0.75, 0.5]
    rows = joined(world, [at for at, _ in known], user_id=1)
    assert rows["hour_closeness"].tolist() == [value for _, value in known]


REWRITTEN = '''

phone = RequestSource(name="phone", schema=[Field(name="on_phone", dtype=Int64)])


@on_demand_feature_view(
    sources=[user_watch_stats, item_profile, phone],
    schema=[
        Field(name="hour_closeness", dtype=Float32),
        Field(name="known_item", dtype=Int64),
    ],
    mode="pandas",
    version="v2",
)
def ranking_signals(inputs: pd.DataFrame) -> pd.DataFrame:
    """What a phone shows."""
    watched = inputs["user_watch_count_7d"].astype("float32")
    return pd.DataFrame(
        {
            "hour_closeness": watched + inputs["on_phone"].astype("float32"),
            "known_item": (inputs["item_genre"] != "unknown") * 1,
        },
        index=inputs.index,
    )
'''


@pytest.fixture
def rewritten(world: World) -> tuple[World, list[datetime]]:
    """Version 2 has other sources, another schema, and wants another field of the request; the
    moments before, between and after it was the default."""
    path = world.repository.path("transforms.py")
    text = path.read_text().replace(
        "    user_preferences,\n)", "    user_preferences,\n    user_watch_stats,\n)"
    )
    path.write_text(text[: text.index("\n\n@on_demand_feature_view(")] + REWRITTEN)
    world.apply()

    moments = [between_moves()]
    promote(world.conn, "skewless", "ranking_signals", 2)
    moments.append(between_moves())
    return world, moments


def test_versions_read_other_views_and_have_other_features(
    rewritten: tuple[World, list[datetime]],
) -> None:
    world, moments = rewritten
    refs = ["ranking_signals:hour_closeness", "ranking_signals:known_item"]
    rows = joined(world, moments, *refs, user_id=1, item_id=1, on_phone=[7, 7])
    watched = world.online("user_watch_stats:user_watch_count_7d", user_id=1)
    habits = world.online("user_habits:user_preferred_hour", user_id=1)
    apart = abs(8 - int(str(habits["user_preferred_hour"])))
    assert rows["hour_closeness"].tolist() == pytest.approx(
        [1 - min(apart, 24 - apart) / 12, int(str(watched["user_watch_count_7d"])) + 7]
    )
    # What the old version did not have is not known; what only it read does not come along.
    assert rows["known_item"].tolist()[1] == 1
    assert pd.isna(rows["known_item"][0])
    assert "user_preferred_hour" not in rows.columns
    assert "user_genre_preferences" not in rows.columns
    full = world.store().get_historical_features(
        entity_df=labels(moments, on_phone=[7, 7], user_id=1, item_id=1),
        features=refs,
        full_feature_names=True,
    )
    names = full.to_df()
    assert names["ranking_signals__hour_closeness"].tolist() == rows["hour_closeness"].tolist()
    assert "user_habits__user_preferred_hour" not in names.columns


def test_the_old_version_needs_what_its_requests_brought(
    rewritten: tuple[World, list[datetime]],
) -> None:
    world, moments = rewritten
    store = world.store()
    frame = labels(moments, on_phone=0).drop(columns="request_hour")
    features = ["ranking_signals:hour_closeness"]
    with pytest.raises(SkewlessError, match=r"ranking_signals v1, .* needs request_hour"):
        store.get_historical_features(entity_df=frame, features=features).to_df()
    # Labels of the new version's days need not have it.
    later = store.get_historical_features(entity_df=frame[1:], features=features).to_df()
    assert later["hour_closeness"].tolist() == [0.0]


def test_a_training_set_stays_the_same_and_says_which_transforms(
    world: World, tmp_path: Path
) -> None:
    second_signals(world)
    world.apply()
    known = [served(world)]
    promote(world.conn, "skewless", "ranking_signals", 2)
    known.append(served(world))
    path = tmp_path / "labels.csv"
    labels([at for at, _ in known]).to_csv(path, index=False)
    first = take(world.store(), "ranking", read_labels(str(path)), tmp_path / "a.parquet")
    values = pd.read_parquet(first.path)["hour_closeness"].tolist()
    assert values == [value for _, value in known]
    used = {(one.transform, one.version): one.labels for one in first.manifest.transforms}
    assert used == {("ranking_signals", 1): 1, ("ranking_signals", 2): 1}

    rollback(world.conn, "skewless", "ranking_signals")
    again = take_again(world.store(), first.manifest_path, tmp_path / "b.parquet")
    assert again.manifest.sha256 == first.manifest.sha256
    assert again.manifest.transforms == first.manifest.transforms


def transform(number: int, dtype: PrimitiveFeastType, value: Callable[[Any], Any]) -> Any:
    """A transform of a request's ``x``."""
    made = OnDemandFeatureView(
        name="of_x",
        sources=[RequestSource(name="asked", schema=[Field(name="x", dtype=Int64)])],
        schema=[Field(name="y", dtype=dtype)],
        mode="pandas",
        feature_transformation=PandasTransformation(
            udf=lambda inputs: pd.DataFrame({"y": value(inputs["x"])}), udf_string=""
        ),
    )
    made.current_version_number = number
    return made


def at_versions(*numbers: int) -> pa.Table:
    """Rows 0, 1, … and ten times as much in a column that only v1 reads."""
    rows = range(len(numbers))
    return pa.table(
        {"x": rows, "_served_input_0": [10 * i for i in rows], "_served_version_0": list(numbers)}
    )


def test_each_version_has_its_own_inputs() -> None:
    first, second = transform(1, Int64, lambda x: x + 1), transform(2, Float32, lambda x: x + 0.5)
    made = ServedTransform(
        second,
        [
            Version(1, "{(,)}", first, {"x": "_served_input_0"}),
            Version(2, "{(,)}", second, {}),
            Version(3, "{(,)}", first, None),
        ],
        "_served_version_0",
    )
    answer = made.transform_arrow(at_versions(2, 1, 3, 1, 2))
    assert answer.to_pydict() == {"y": [0.5, 11.0, None, 31.0, 4.5]}
    assert answer.schema.field("y").type == pa.float32()
    assert made.transform_arrow(at_versions()[:0]).num_rows == 0


def test_a_type_that_does_not_become_the_default_s_is_refused() -> None:
    first, second = transform(1, String, lambda x: x.map("no{}".format)), transform(2, Int64, abs)
    versions = [Version(1, "{(,)}", first, {}), Version(2, "{(,)}", second, {})]
    made = ServedTransform(second, versions, "_served_version_0")
    assert made.transform_arrow(at_versions(2, 2))["y"].to_pylist() == [0, 1]
    with pytest.raises(SkewlessError, match="of_x:y of v1 cannot be had as int64"):
        made.transform_arrow(at_versions(2, 1))
