"""A view's answer by the oracle, and what it means that two answers agree."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

import numpy as np

from tests.oracle import features
from tests.oracle.features import Keys, Value
from tests.oracle.records import History

Answer: TypeAlias = tuple[Value, ...]


@dataclass(frozen=True)
class ViewOracle:
    """How the oracle answers for one view.

    Attributes:
        join_keys: the entity's keys, in the order in which `Keys` tuples hold them.
        values: one function per feature, each (history, *keys, as_of) -> value.
        horizon: how long a watch counts; None for ever.
        float32_steps: how far an engine may be from the oracle, in steps of float32.
    """

    join_keys: tuple[str, ...]
    values: tuple[Callable[..., Value], ...]
    horizon: timedelta | None = None
    decays: bool = False
    float32_steps: int = 0

    def __call__(self, history: History, keys: Keys, as_of: datetime) -> Answer:
        return tuple(_one_zero(value(history, *keys, as_of)) for value in self.values)

    def entities(self, history: History) -> list[Keys]:
        """Every entity that the history names."""
        match self.join_keys:
            case ("user_id",):
                return [(user,) for user in history.user_ids]
            case ("item_id",):
                return [(item,) for item in history.item_ids]
            case _:
                return list(history.pairs)


def _one_zero(value: Value) -> Value:
    """Without a negative zero, of which no answer has one; -0.0 + 0.0 is 0.0."""
    if isinstance(value, tuple):
        return tuple(_one_zero(part) for part in value)  # type: ignore[return-value]
    if isinstance(value, np.float32):
        return np.float32(value + np.float32(0))
    return value + 0.0 if isinstance(value, float) else value


VIEWS: dict[str, ViewOracle] = {
    "user_watch_stats": ViewOracle(
        ("user_id",), (features.user_watch_count_7d,), timedelta(days=7)
    ),
    "user_preferences": ViewOracle(
        ("user_id",), (features.user_genre_preferences,), timedelta(days=30)
    ),
    "user_habits": ViewOracle(
        ("user_id",),
        (features.user_avg_watch_duration_min, features.user_preferred_hour),
        timedelta(days=30),
    ),
    "item_stats": ViewOracle(
        ("item_id",),
        (features.item_popularity_score,),
        timedelta(days=14),
        decays=True,
        float32_steps=1,
    ),
    "item_profile": ViewOracle(("item_id",), (features.item_genre,)),
    "user_item_progress": ViewOracle(("user_id", "item_id"), (features.user_item_watch_progress,)),
}


def bits(answer: Answer) -> tuple[object, ...]:
    """The answer as something hashable that differs whenever a bit does (0.0 is not -0.0)."""
    return tuple(_bits(value) for value in answer)


def _bits(value: Value) -> object:
    if isinstance(value, tuple):
        if value and isinstance(value[0], np.float32):
            return np.array(value, dtype=np.float32).tobytes()
        return tuple(_bits(part) for part in value)
    if isinstance(value, np.float32 | float):
        return np.asarray(value).tobytes()
    return value


def agrees(answer: Answer, oracle: Answer, float32_steps: int = 0) -> bool:
    """Whether an engine's answer is the oracle's, to the bit or within so many float32 steps."""
    if float32_steps == 0:
        return bits(answer) == bits(oracle)
    return len(answer) == len(oracle) and all(
        isinstance(mine, np.float32)
        and isinstance(true, np.float32)
        and abs(float(mine) - float(true)) <= float32_steps * float(np.spacing(true))
        for mine, true in zip(answer, oracle, strict=True)
    )


def brief(answer: Answer) -> str:
    """The answer for a message: of a vector only the beginning, or that it is constant."""
    return ", ".join(_brief(value) for value in answer)


def _brief(value: Value) -> str:
    if not isinstance(value, tuple):
        return str(value)
    if len(set(map(str, value))) == 1:
        return f"{len(value)} x {value[0]}"
    return f"[{', '.join(str(part) for part in value[:3])}, … {len(value)}]"
