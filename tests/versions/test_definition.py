"""What counts as a change of a definition, and what does not."""

import json
from pathlib import Path

import pytest

from extensions.asof.definition_fingerprint import Definition
from extensions.asof.sql_normalization import normalised
from extensions.versions.declared_definitions import Declared, read_declared
from tests.versions.repositories import Repository


def declared(repository: Repository) -> Declared:
    with repository.current() as root:
        return read_declared(root)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Definition]:
    return dict(declared(Repository.copy(tmp_path_factory.mktemp("first"))).definitions)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.copy(tmp_path / "repository")


SQL = "computations/user_watch_stats.v1.sql"
SAME = [
    (SQL, "-- How much has the user watched in the last 7 days?\n", ""),
    (SQL, "SELECT count(*) AS n", "select   COUNT( * ) /* all /* of */ them */\nas N"),
    (SQL, "AS w\n", "AS w;\n"),
    ("views.py", "Watch events of the last 7 days.", "Watch events of a week."),
    ("transforms.py", "    # Serving hands features over as doubles", "    # Another comment"),
    ("transforms.py", '"""(n rows) -> (n rows): cosine', '"""What it does: cosine'),
]
# The default goes with the type: one that does not fit is refused.
ITEM_GENRE = """dtype=String,
            description="Primary genre.",
            tags={"default": '"unknown"'}"""
CHANGED = [
    (SQL, "'168 hours'", "'167 hours'", "user_watch_stats", ["SQL"]),
    (SQL, "'168 hours'", "'168  hours'", "user_watch_stats", ["SQL"]),
    ("views.py", '"horizon": "7 days"', '"horizon": "8 days"', "user_watch_stats", ["horizon"]),
    ("views.py", 'tags={"default": "20"}', 'tags={"default": "21"}', "user_habits", ["default"]),
    ("views.py", '"freshness": "daily", "horizon"', '"freshness": "hourly", "horizon"',
     "user_habits", ["freshness"]),
    ("views.py", '"reads": "watch_events,items,genres"',
     '"decays": "true", "reads": "watch_events,items,genres"', "user_preferences", ["decays"]),
    ("views.py", ITEM_GENRE, ITEM_GENRE.replace("String", "Int64").replace('"unknown"', "0"),
     "item_profile", ["schema"]),
    ("transforms.py", "closeness = 1 - ", "closeness = 2 - ", "ranking_signals", ["transform"]),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new"), SAME, ids=[s[1][:20] for s in SAME])
def test_words_do_not_count(
    repository: Repository, published: dict[str, Definition], file: str, old: str, new: str
) -> None:
    repository.edit(file, old, new)
    for name, definition in declared(repository).definitions.items():
        assert definition.changed(published[name]) == []
        assert definition.fingerprint == published[name].fingerprint


@pytest.mark.parametrize(
    ("file", "old", "new", "view", "parts"), CHANGED, ids=[f"{c[3]}-{c[4][0]}" for c in CHANGED]
)
def test_what_decides_a_value_counts(
    repository: Repository,
    published: dict[str, Definition],
    file: str,
    old: str,
    new: str,
    view: str,
    parts: list[str],
) -> None:
    repository.edit(file, old, new)
    for name, definition in declared(repository).definitions.items():
        same = definition.fingerprint == published[name].fingerprint
        assert same == (name != view)
        assert definition.changed(published[name]) == ([] if same else parts)


def test_a_definition_comes_back_from_the_database_as_it_was(
    published: dict[str, Definition], computations: dict
) -> None:
    for name, definition in published.items():
        back = Definition(name, 1, definition.kind, json.loads(json.dumps(definition.content)))
        assert back.fingerprint == definition.fingerprint
        if definition.kind == "computation":
            assert back.computation() == computations[f"{name}.v1"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT 'a -- b'", "SELECT 'a'"),
        ("SELECT 'A'", "SELECT 'a'"),
        ('SELECT "A"', 'SELECT "a"'),
        ("SELECT E'it\\'s -- here'", "SELECT E'it\\'s'"),
        (r"SELECT 'a\', 'B'", r"SELECT 'a\', 'b'"),
        ("SELECT $$/* A */$$", "SELECT $$/* a */$$"),
        ("SELECT $x$ $$ B $x$", "SELECT $x$ $$ b $x$"),
        ("SELECT 1.5", "SELECT 1.6"),
        ("SELECT a - b", "SELECT a -- b"),
        ("SELECT /* x */ 1", "SELECT /* x 1"),
    ],
)
def test_texts_that_mean_different_things_stay_different(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_texts_that_mean_the_same_are_one() -> None:
    assert normalised(
        "-- c\nSELECT A,'It''s -- no' AS \"X y\", 1.0::double /* /* deep */ */ precision FROM T;"
    ) == normalised("select a , 'It''s -- no' as \"X y\",1.0 ::\n double precision from t -- end")
