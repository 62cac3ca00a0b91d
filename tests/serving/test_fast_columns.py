"""Columns, groups of rows that are alike, and transforms on plain columns: as pandas has it."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from extensions.serving.columns import Coded, codes, grouped, taken
from extensions.serving.frames import Inputs, array, columns
from extensions.serving.transforms import Transform
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
    by_columns = function(Inputs(arrays, n))
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
    assert seen == [Inputs, pd.DataFrame, pd.DataFrame]


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
