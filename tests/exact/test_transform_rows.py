"""A transform's row is the same alone and among others; in training, by Feast's SDK, on /v1."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, RequestSource, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.transformation.pandas_transformation import PandasTransformation
from feast.transformation.python_transformation import PythonTransformation
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp

import extensions.stores.offline.store  # noqa: F401 - puts our functions into Feast's views
from extensions.errors import InputError
from extensions.serving.features.on_demand_transforms import Transform

INPUTS: dict[str, tuple[Any, pa.DataType]] = {
    "big": (Int64, pa.int64()),
    "small": (Int32, pa.int32()),
    "real": (Float32, pa.float32()),
    "flag": (Bool, pa.bool_()),
    "word": (String, pa.string()),
    "vector": (Array(Float32), pa.list_(pa.float32())),
    "seen": (UnixTimestamp, pa.timestamp("us", "UTC")),
}
SEEN = datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)
ROWS: list[dict[str, Any]] = [
    {"big": 2**53 + 1, "small": 7, "real": 0.1, "flag": True, "word": "a", "vector": [0.1, 0.2],
     "seen": SEEN},
    {"big": None, "small": 7, "real": 3.3, "flag": False, "word": None, "vector": None,
     "seen": None},
    {"big": -(2**60) - 1, "small": None, "real": None, "flag": None, "word": "", "vector": [],
     "seen": datetime(1960, 1, 1, tzinfo=UTC)},
    dict.fromkeys(INPUTS),
]  # fmt: skip
ASKED_AT = "2026-03-04T05:06:07+00:00"
OUTPUTS: dict[str, Any] = {
    "digit": Int64,
    "text": String,
    "kinds": String,
    "tenth": Float64,
    "since": Float64,
}


def in_pandas(inputs: pd.DataFrame) -> pd.DataFrame:
    made = pd.DataFrame(index=inputs.index)
    made["digit"] = inputs["big"] % 10
    made["text"] = (
        inputs["big"].astype(str) + inputs["flag"].astype(str) + inputs["seen"].astype(str)
    )
    names = ("big", "small", "real", "flag", "seen", "asked_at")
    made["kinds"] = "|".join(str(inputs[name].dtype) for name in names)
    summed = inputs["vector"].map(lambda v: 0.0 if v is None else float(np.sum(np.multiply(v, 3))))
    made["tenth"] = inputs["real"] * 0.1 + summed
    made["since"] = (inputs["asked_at"] - inputs["seen"]).dt.total_seconds()
    return made


def one_row(row: dict[str, Any]) -> dict[str, Any]:
    seen, real, big = row["seen"], row["real"], row["big"]
    return {
        "digit": None if big is None else max(big, 0) % 10,
        "text": f"{big}{row['flag']}{seen}",
        "kinds": "|".join(type(row[name]).__name__ for name in ("big", "real", "seen", "asked_at")),
        "tenth": None if real is None else real * 0.1,
        "since": None if seen is None else (row["asked_at"] - seen).total_seconds(),
    }


def in_python(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    made = [
        one_row(dict(zip(inputs, row, strict=True))) for row in zip(*inputs.values(), strict=True)
    ]
    return {name: [row[name] for row in made] for name in OUTPUTS}


def transform(
    mode: str, function: Callable[..., Any], *, singleton: bool = False
) -> OnDemandFeatureView:
    source = FeatureView(
        name="facts",
        entities=[Entity(name="person", join_keys=["person_id"], value_type=ValueType.INT64)],
        schema=[Field(name=name, dtype=dtype) for name, (dtype, _) in INPUTS.items()],
        source=PostgreSQLSource(name="facts", table="facts", timestamp_field="at"),
    )
    asked = RequestSource(name="asked", schema=[Field(name="asked_at", dtype=UnixTimestamp)])
    runs: Any = PandasTransformation if mode == "pandas" else PythonTransformation
    return OnDemandFeatureView(
        name="derived",
        sources=[source, asked],
        schema=[Field(name=name, dtype=dtype) for name, dtype in OUTPUTS.items()],
        feature_transformation=runs(udf=function, udf_string=""),
        mode=mode,
        singleton=singleton,
    )


def trained(view: OnDemandFeatureView, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    table = pa.table(
        {name: pa.array([row[name] for row in rows], kind) for name, (_, kind) in INPUTS.items()}
    )
    # As pandas brings it into an entity frame.
    asked = pa.array([datetime.fromisoformat(ASKED_AT)] * len(rows), pa.timestamp("ns", "UTC"))
    return _rows(view.transform_arrow(table.append_column("asked_at", asked)))


def by_feast(view: OnDemandFeatureView, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As Feast's online code calls it: what its messages hold, in Python's types."""
    given = {name: [row[name] for row in _sent(rows)] for name in INPUTS}
    given["asked_at"] = [ASKED_AT] * len(rows)
    if view.mode == "python":
        made = view.transform_dict(given)
        return [{name: made[name][row] for name in OUTPUTS} for row in range(len(rows))]
    return _rows(view.transform_arrow(pa.table(given)))


def by_v1(view: OnDemandFeatureView, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    columns: dict[str, Any] = {name: [row[name] for row in _sent(rows)] for name in INPUTS}
    columns["seen"] = [None if at is None else int(at.timestamp() // 1) for at in columns["seen"]]
    columns["asked_at"] = [ASKED_AT]
    made = Transform.of(view, tuple(OUTPUTS)).run(columns, len(rows))
    lists = {name: np.asarray(column, object).tolist() for name, column in made.items()}
    return _rows(pa.table({name: pa.array(held, from_pandas=True) for name, held in lists.items()}))


def _sent(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A float32 as the equal double, a time in whole seconds."""
    return [
        {
            **row,
            "real": None if row["real"] is None else float(np.float32(row["real"])),
            "vector": row["vector"] and [float(np.float32(each)) for each in row["vector"]],
            "seen": row["seen"] and row["seen"].replace(microsecond=0),
        }
        for row in rows
    ]


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = table.select(list(OUTPUTS)).to_pylist()
    return found


WAYS = {"training": trained, "Feast's SDK": by_feast, "/v1": by_v1}


MODES = ("pandas", "python", "singleton")
# /v1 refuses singletons.
PAIRS = [(mode, way) for mode in MODES for way in WAYS if (mode, way) != ("singleton", "/v1")]


@pytest.mark.parametrize(("mode", "way"), PAIRS)
def test_a_row_is_the_same_alone_and_among_others(mode: str, way: str) -> None:
    functions: dict[str, Callable[..., Any]] = {
        "pandas": in_pandas, "python": in_python, "singleton": one_row
    }  # fmt: skip
    function = functions[mode]
    view = transform(mode.replace("singleton", "python"), function, singleton=mode == "singleton")
    alone = [WAYS[way](view, [row])[0] for row in ROWS]
    assert WAYS[way](view, ROWS) == alone
    # Twice each, so that rows of one form stand apart from each other.
    assert WAYS[way](view, [*ROWS, *ROWS]) == [*alone, *alone]
    assert alone == [trained(view, [row])[0] for row in ROWS]
    assert alone[0]["digit"] == (2**53 + 1) % 10
    assert str(2**53 + 1) in alone[0]["text"]
    assert alone[1]["digit"] is None


@pytest.mark.parametrize("way", ["Feast's SDK", "/v1"])
def test_a_request_time_that_is_none_is_refused(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.exact.test_transform_rows.ASKED_AT", "yesterday")
    with pytest.raises(InputError, match="asked_at must be a time"):
        WAYS[way](transform("pandas", in_pandas), ROWS)
