"""Columns, groups of rows that are alike, and transforms on plain columns: as pandas has it."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from extensions.serving.features.light_pandas_frames import (
    InputFrame,
    OutputFrame,
    array,
    columns,
    with_light_frames,
)
from extensions.serving.features.on_demand_transforms import Transform
from extensions.stores.online_codec.coded_columns import Coded, codes, grouped, taken
from feature_repo.genres import PLACES
from feature_repo.transforms import ranking_signals


@pytest.mark.parametrize("n", [1, 7, 300])
@pytest.mark.parametrize("kinds", [2, 40, 10**12])
def test_groups_are_those_of_a_dictionary(n: int, kinds: int) -> None:
    rng = np.random.default_rng(n + kinds)
    parts = [(rng.integers(0, kinds, n), kinds), (rng.integers(0, 3, n), 3)]
    groups = grouped(parts, n)
    assert groups is not None
    rows = list(zip(*(one.tolist() for one, _ in parts), strict=True))
    assert [rows[groups.first[i]] for i in groups.inverse] == rows
    assert len(groups.first) == len(set(rows))


def test_too_many_kinds_have_no_groups() -> None:
    part = (np.zeros(3, np.int64), 1 << 40)
    assert grouped([part, part], 3) is None


def test_codes_differ_where_values_do() -> None:
    texts = Coded(np.array([2, 0, 2, 1]), ["a", None, "b"])
    assert list(texts) == ["b", "a", "b", None]
    assert list(taken(texts, np.array([1, 3]))) == ["a", None]
    for column in (texts, np.array([0.5, -1.0, 0.5, 7.0], np.float32)):
        found = codes(column)
        assert found is not None
        numbers, bound = found
        assert max(numbers) < bound
        held = list(column)
        for i in range(4):
            for j in range(4):
                assert (numbers[i] == numbers[j]) == (held[i] == held[j])
    assert codes([[1.0], [2.0]]) is None


def drawn(n: int) -> dict[str, Any]:
    rng = np.random.default_rng(n)
    genres = [*PLACES, "unknown"]
    return {
        "user_genre_preferences": list(rng.normal(size=(n, 32)).astype(np.float32)),
        "user_preferred_hour": rng.integers(0, 24, n),
        "item_genre": Coded(rng.integers(0, len(genres), n), genres),
        "user_item_watch_progress": rng.random(n).astype(np.float32),
        "request_hour": rng.integers(0, 24, n),
    }


@pytest.mark.parametrize("n", [1, 2, 50])
def test_columns_give_a_transform_what_a_frame_gives(n: int) -> None:
    arrays = {name: array(column, n) for name, column in drawn(n).items()}
    function = ranking_signals.feature_transformation.udf
    by_frame = function(pd.DataFrame(dict(arrays)))
    by_columns = function(InputFrame(arrays, n))
    pd.testing.assert_frame_equal(by_columns, by_frame)
    for one, name in zip(columns(by_columns, by_frame.columns), by_frame.columns, strict=True):
        assert one.tolist() == by_frame[name].tolist()


def transform(function: Any) -> Transform:
    view: Any = SimpleNamespace(mode="pandas", feature_transformation=SimpleNamespace(udf=function))
    return Transform("made", view, (("a", None), ("b", None)), ("c",), ("DOUBLE",))


def test_one_that_wants_more_of_pandas_gets_a_frame_from_then_on() -> None:
    seen: list[type] = []

    def function(inputs: Any) -> pd.DataFrame:
        seen.append(type(inputs))
        return pd.DataFrame({"c": (inputs["a"] + inputs["b"]).rolling(1).mean()})

    made = transform(function)
    given = {"a": np.array([1, 2, 3]), "b": [0.5]}
    for _ in range(2):
        assert made.run(given, 3)["c"].tolist() == [1.5, 2.5, 3.5]
    assert seen == [InputFrame, pd.DataFrame, pd.DataFrame]


def test_one_that_changes_what_it_was_given_before_it_fails() -> None:
    def function(inputs: Any) -> pd.DataFrame:
        held = inputs["a"].to_numpy()
        held += 1
        return pd.DataFrame({"c": held * inputs["b"].abs()})

    assert transform(function).run({"a": np.array([1.0, 2.0]), "b": [2]}, 2)["c"].tolist() == [4, 6]


def test_its_own_error_is_its_own() -> None:
    def function(inputs: Any) -> pd.DataFrame:
        return pd.DataFrame({"c": inputs["nothing"]})

    with pytest.raises(KeyError, match="nothing"):
        transform(function).run({"a": np.array([1.0]), "b": [2]}, 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0.1], np.float32), [float(np.float32(0.1))] * 3),
        ([1, None, 3], [1.0, float("nan"), 3.0]),
        ([True, False, True], [True, False, True]),
        ([True, None, True], [True, None, True]),
        (["x", None, "y"], ["x", None, "y"]),
        ([None], [None, None, None]),
    ],
)
def test_columns_are_as_feast_hands_them_over(values: Any, expected: list[Any]) -> None:
    found = array(values, 3).tolist()
    assert all(a == b or (a != a and b != b) for a, b in zip(found, expected, strict=True))


GENRES = Coded(np.array([0, 1, 0]), ["drama", "western"])
ASKED: list[tuple[Any, list[float]]] = [
    (lambda inputs: np.where(inputs["g"] == "drama", 1.0, 0.0), [1.0, 0.0, 1.0]),
    (lambda inputs: np.where(inputs["g"] != "drama", 1.0, 0.0), [0.0, 1.0, 0.0]),
    (lambda inputs: np.where(np.asarray(inputs["g"]) == "drama", 1.0, 0.0), [1.0, 0.0, 1.0]),
    (lambda inputs: np.where(inputs["a"] == 2, 1.0, 0.0), [0.0, 1.0, 0.0]),
    (lambda inputs: [0.0 if "drama" in inputs["g"] else 1.0] * 3, [1.0, 1.0, 1.0]),
    (lambda inputs: np.log2(inputs["a"]).fillna(0) + np.array(inputs["a"]), [1.0, 3.0, 6.0]),
    (lambda inputs: np.add(inputs["a"], 1).where(inputs["a"] > 1, 0.0), [0.0, 3.0, 5.0]),
    (lambda inputs: [1.0 if inputs is None or inputs == "x" else 0.0] * 3, []),
]


@pytest.mark.parametrize("number", range(len(ASKED)))
def test_what_is_asked_of_a_column_is_answered_as_pandas_would_or_by_pandas(number: int) -> None:
    asked, expected = ASKED[number]

    def function(inputs: Any) -> pd.DataFrame:
        return pd.DataFrame({"c": asked(inputs)}, index=inputs.index)

    view: Any = SimpleNamespace(mode="pandas", feature_transformation=SimpleNamespace(udf=function))
    made = Transform("made", view, (("a", None), ("g", None)), ("c",), ("DOUBLE",))
    given = {"a": np.array([1.0, 2.0, 4.0]), "g": GENRES}
    if expected:
        assert made.run(given, 3)["c"].tolist() == expected
    else:  # what pandas itself refuses
        with pytest.raises(ValueError, match="truth value"):
            made.run(given, 3)


def changed_later(inputs: Any) -> pd.DataFrame:
    column = inputs["a"].to_numpy().copy()
    made = pd.DataFrame({"c": column})
    column += 1
    return made


def more_added(inputs: Any) -> pd.DataFrame:
    made = pd.DataFrame({"d": inputs["a"].to_numpy()})
    made["c"] = made["d"] + 1
    return made


FRAMES: list[Any] = [
    lambda x: pd.DataFrame({"c": x["a"].to_numpy()}),
    lambda x: pd.DataFrame({"c": x["a"].to_numpy() > 1}, index=x.index, copy=False),
    lambda x: pd.DataFrame({"c": [*x["a"]]}),
    lambda x: pd.DataFrame({"c": 1.5}, index=x.index),
    lambda x: pd.DataFrame({"c": np.float32(1.5)}, index=pd.RangeIndex(len(x))),
    lambda x: pd.DataFrame({"c": x["a"].to_numpy()}).mul(2),
    lambda x: pd.DataFrame({"d": x["a"].to_numpy()}).rename(columns={"d": "c"}),
    lambda x: pd.DataFrame({"c": np.asarray(pd.DataFrame({"d": x["a"].to_numpy()})).ravel()}),
    lambda x: pd.DataFrame({"c": x["a"].to_numpy(), "d": x["b"].to_numpy()}, columns=["d", "c"]),
    lambda x: pd.DataFrame({"c": x["a"].to_numpy()}, dtype="float32"),
    lambda x: pd.DataFrame({"c": pd.Series(x["a"].to_numpy())[::-1]}),
    lambda x: pd.DataFrame(x["a"].to_numpy().reshape(-1, 1), columns=["c"]),
    lambda x: pd.DataFrame({"c": x["a"].to_numpy(), "d": pd.to_datetime(x["b"].to_numpy())}),
    lambda x: pd.concat([pd.DataFrame({"c": x["a"].to_numpy()})]),
    changed_later,
    more_added,
]


@pytest.mark.parametrize("number", range(len(FRAMES)))
def test_a_frame_that_a_transform_makes_is_what_pandas_makes_of_it(number: int) -> None:
    function = FRAMES[number]
    assert with_light_frames(function) is not function
    expected = function(pd.DataFrame({"a": [0.1, 2.0, 4.0], "b": 1}))["c"]
    made = transform(function)
    for _ in range(2):
        found = made.run({"a": np.array([0.1, 2.0, 4.0]), "b": [1]}, 3)["c"]
        assert isinstance(found, np.ndarray)
        assert found.tolist() == expected.astype("float64").tolist()


def test_a_frame_of_arrays_is_none_of_pandas() -> None:
    for function in (FRAMES[0], FRAMES[1], ranking_signals.feature_transformation.udf):
        arrays = {name: array(column, 3) for name, column in drawn(3).items()}
        given = InputFrame({**arrays, "a": np.ones(3)}, 3)
        assert isinstance(with_light_frames(function)(given), OutputFrame)


def test_a_function_that_reads_what_may_change_keeps_its_surroundings() -> None:
    def function(inputs: Any) -> pd.DataFrame:
        return pd.DataFrame({"c": inputs["a"].to_numpy() * len(FRAMES)})

    assert with_light_frames(function) is function


@pytest.mark.parametrize("refused", [{"c": np.ones((3, 2))}, {"c": np.ones(3), "d": np.ones(2)}])
def test_a_frame_that_pandas_refuses_is_refused(refused: dict[str, Any]) -> None:
    def function(_: Any) -> pd.DataFrame:
        return pd.DataFrame(refused)

    with pytest.raises(ValueError, match=r"1-dimensional|same length"):
        transform(function).run({"a": np.ones(3), "b": [1]}, 3)
