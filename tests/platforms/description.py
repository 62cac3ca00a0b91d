"""What the suite must know of a platform: its folder, its events, its routes, what is true."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

from tests.oracle.answers import Answer, agrees
from tests.versions.repositories import Repository

Row = dict[str, Any]
# By source, its rows with event time and arrival, in order of arrival.
Rows = Mapping[str, Sequence[Row]]
Keys = tuple[Any, ...]


@dataclass(frozen=True)
class Routes:
    """The published routes of two services: of one entity, and of one with many of another.

    Attributes:
        page: The service of one entity.
        page_path: The path for an id.
        page_names: The names in its reply of the id and of the features.
        rank: The service of a pair.
        rank_path: Its path.
        rank_names: The names of the leading id, of the ids and of the id in each of ``items``.
        groups: The names of the leading entity's features, of the others' and of the pairs'.
        context: The request's field as the request source has it, as the route has it, and
            the largest value; the least is 0.
    """

    page: str
    page_path: Callable[[Any], str]
    page_names: tuple[str, str]
    rank: str
    rank_path: str
    rank_names: tuple[str, str, str]
    groups: tuple[str, str, str]
    context: tuple[str, str, int]


@dataclass(frozen=True)
class SecondVersion:
    """A view's second version: one place in the first one's SQL is another.

    Attributes:
        view: The view, whose entity is the second key of the rank service.
        feature: The feature that moves, far enough for a drift check to find it.
        old: The place in the SQL.
        new: What stands there in the second version.
        answer: The second version's answer, of the first one's.
        declare: Edits the repository's files so that they declare it.
    """

    view: str
    feature: str
    old: str
    new: str
    answer: Callable[[tuple[Any, ...]], Answer]
    declare: Callable[[Repository], None]


@dataclass(frozen=True)
class Platform:
    """A repository, and an oracle that shares no code with the engine or the SQL.

    Attributes:
        copy: Copies the repository's files to a folder.
        parameters: Of its simulator, for a history of some thousand rows.
        history: Random rows of each source that end at a time; many times and ids are equal.
        oracle: By view, the values of its features of (rows, keys, as_of).
        entities: All keys of a view's entities that the rows of ``history`` may name, and more.
        message: A row of a source as its stream's message.
        refused: Of a source, values that its table refuses in a row.
        bad: By source, messages that are no rows.
        silent: By source, messages that say nothing, and are nothing wrong.
        routes: The published ones.
        second: A second version of one view.
        float32_steps: By view, how far an answer may be from the oracle's, in steps of float32.
    """

    copy: Callable[[Path], object]
    parameters: Mapping[str, Any]
    history: Callable[[Random, datetime], Rows]
    oracle: Mapping[str, Callable[[Rows, Keys, datetime], Answer]]
    entities: Callable[[Rows, tuple[str, ...]], list[Keys]]
    message: Callable[[str, Row], bytes]
    refused: tuple[str, Sequence[Row]]
    bad: Mapping[str, Sequence[bytes]]
    routes: Routes
    second: SecondVersion
    silent: Mapping[str, Sequence[bytes | None]] = field(default_factory=dict)
    float32_steps: Mapping[str, int] = field(default_factory=dict)

    def agrees(self, view: str, answer: Answer, oracle: Answer) -> bool:
        """Whether an engine's answer is the oracle's, to the bit or as near as is declared."""
        return agrees(answer, oracle, self.float32_steps.get(view, 0))


def copy_repository(source: Path, folder: Path) -> None:
    """Copy a repository's definitions and configuration, and nothing that was made there."""
    Repository.copy(folder, source)
