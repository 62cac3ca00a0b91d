"""What a declaration may say: one sentence for each mistake, without a database or at plan."""

import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from feast import Aggregation, Entity, FeatureView, Field, ValueType
from feast.types import Array, Float32, Float64, Int32, Int64, String, UnixTimestamp

from extensions.asof.aggregations.compiler import compiled_sql
from extensions.asof.aggregations.filter_check import filter_problem
from extensions.asof.definition_fingerprint import Definition
from extensions.asof.definition_validation import check_sources
from extensions.errors import DefinitionError
from tests.aggregations import purchases
from tests.aggregations.purchases import TABLE, buyer, computation_of, contents, source, view

DAY = timedelta(days=1)


def one(
    function: str = "sum",
    column: str = "cents",
    dtype: Any = Int64,
    tags: dict[str, str] | None = None,
    window: timedelta | None = DAY,
    **more: Any,
) -> Any:
    """A view of one feature, ``spent``."""
    default = "[]" if isinstance(dtype, Array) else '"x"' if dtype == String else "0"
    return view(
        [Field(name="spent", dtype=dtype, tags={"default": default, **(tags or {})})],
        [Aggregation(column=column, function=function, time_window=window, name="spent")],
        **more,
    )


def test_a_declaration_says_what_a_hand_written_view_says_in_tags() -> None:
    made = one(window=7 * DAY)
    computation = computation_of(made)
    assert computation.horizon == 7 * DAY
    assert not computation.decays
    assert [each.table for each in computation.reads] == ["purchases"]
    assert made.tags == {"freshness": "hourly", "reads": "purchases", "horizon": "7 days"}
    assert made.batch_source.name == "buying_v1"
    assert computation_of(one(window=None)).horizon is None
    decayed = computation_of(
        one("decayed_sum", dtype=Float64, tags={"half_life": "3 hours"}, window=None)
    )
    assert (decayed.horizon, decayed.decays) == (64 * timedelta(hours=3), True)
    assert computation_of(one("time_since", "", window=None)).decays


def test_each_window_ends_somewhere() -> None:
    """A sum over a day and one over a week: the value changes where a row leaves either."""
    fields = [
        Field(name=name, dtype=Int64, tags={"default": "0"}) for name in ("day", "week", "ever")
    ]
    windows = (DAY, 7 * DAY, None)
    several = [
        Aggregation("cents", "sum", window, name=field.name)
        for field, window in zip(fields, windows, strict=True)
    ]
    computation = computation_of(view(fields, several))
    assert computation.horizon is None
    assert computation.windows == (DAY, 7 * DAY)


def test_reading_twice_and_sharing_tags_changes_nothing() -> None:
    tags = {"freshness": "hourly"}
    first, second = one(), one("time_since", "")
    first.tags = second.tags = tags
    assert computation_of(first) == computation_of(first)
    computation_of(second)
    assert tags == {"freshness": "hourly"}
    assert "decays" not in first.tags


def test_the_log_may_be_the_source_and_the_history_be_named_in_reads() -> None:
    log = purchases.PostgreSQLSource(
        name="buying_v1", table="buying_v1", timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )  # fmt: skip
    made = one(source=log, tags=None)
    made.tags["reads"] = "purchases"
    repository = contents(made)
    repository.data_sources.append(source())
    [computation] = purchases.computations_in(repository, Path("/nonexistent")).values()
    assert computation.sql == computation_of(one()).sql


WRONG: dict[str, tuple[Any, str]] = {
    "a function that is not there": (lambda: one("summ"), "Did you mean sum?"),
    "a function by another name": (lambda: one("avg", dtype=Float64), "Did you mean mean?"),
    "no column": (lambda: one("sum", ""), "must name the column of which it is the sum"),
    "a column too many": (
        lambda: one("decayed_count", "cents", Float64, {"half_life": "1 day"}),
        "take it out, or take decayed_sum",
    ),
    "a whole mean": (lambda: one("mean"), "take Float32 or Float64"),
    "a fraction of a count": (lambda: one("count", "", Float64), "take Int32 or Int64"),
    "a list of a sum": (lambda: one("sum", dtype=Array(Int64)), "has the dtype Array(Int64)"),
    "a last_n that is no list": (
        lambda: one("last_n", tags={"limit": "3"}), "take Array(Int32), Array(Int64)",
    ),
    "a list without an end": (
        lambda: one("last_n", dtype=Array(Int64)), 'tags={"limit": "20"}',
    ),
    "a list that is too long": (
        lambda: one("top_k", dtype=Array(Int64), tags={"limit": "10001"}), "at most 10000",
    ),
    "a limit of a sum": (lambda: one(tags={"limit": "3"}), "limit of field buying:spent means no"),
    "no decay": (lambda: one("decayed_sum", dtype=Float64), 'tags={"half_life": "3 days"}'),
    "two decays": (
        lambda: one(
            "decayed_sum", dtype=Float64, tags={"half_life": "1 day", "decay_rate": "1 per day"}
        ),
        "must say how it decays, once",
    ),
    "a half-life that does not read": (
        lambda: one("decayed_sum", dtype=Float64, tags={"half_life": "a day"}),
        "half_life must read like '3 days'",
    ),
    "a rate of nothing": (
        lambda: one("decayed_sum", dtype=Float64, tags={"decay_rate": "0 per day"}),
        "decay_rate must read like '0.1 per day'",
    ),
    "a decay without end": (
        lambda: one("decayed_sum", dtype=Float64, tags={"decay_rate": "0.000000000001 per day"}),
        "decays too slowly",
    ),
    "a fraction of whole numbers": (lambda: one(tags={"divide_by": "100"}), "take Float32 or"),
    "divided by nothing": (
        lambda: one("mean", dtype=Float64, tags={"divide_by": "0"}), "must be a whole number",
    ),
    "a window of nothing": (lambda: one(window=timedelta(0)), "more than none"),
    "a window of milliseconds": (lambda: one(window=timedelta(milliseconds=9)), "whole seconds"),
    "a slide": (
        lambda: view(
            [Field(name="n", dtype=Int64, tags={"default": "0"})],
            [Aggregation("", "count", DAY, timedelta(hours=1), "n")],
        ),
        "slide_interval of buying:n means nothing",
    ),
    "a field without an aggregation": (
        lambda: view(
            [Field(name="spent", dtype=Int64, tags={"default": "0"})],
            [Aggregation("cents", "sum", DAY, name="spend")],
        ),
        'no aggregation: write Aggregation(…, name="spent"). Did you mean spend?',
    ),
    "one name twice": (
        lambda: view(
            [Field(name="n", dtype=Int64, tags={"default": "0"})],
            [Aggregation("", "count", DAY, name="n"), Aggregation("", "count", 2 * DAY, name="n")],
        ),
        "has 2 aggregations for n",
    ),
    "not online": (lambda: one(online=False), "give it online=True"),
    "realtime and changing": (
        lambda: _tagged(one("time_since", ""), freshness="realtime"), "make it hourly or daily",
    ),
    "another horizon": (lambda: _tagged(one(), horizon="2 days"), "(1 day): take the tag out"),
    "decays though it does not": (lambda: _tagged(one(), decays="true"), "(false): take the tag"),
    "two sources": (
        lambda: _tagged(one(), reads="purchases,orders"), "which read one source",
    ),
    "no default": (
        lambda: view(
            [Field(name="n", dtype=Int64)], [Aggregation("", "count", DAY, name="n")]
        ),
        "has no default",
    ),
    "no freshness": (lambda: _untagged(one(), "freshness"), "has aggregations and no freshness"),
    "a filter that is none": (lambda: one(tags={"filter": "cents > (3"}), "does not close a ("),
    "a tag misspelt": (lambda: one(tags={"filtre": "gift"}), "did you mean filter?"),
    "by another key": (
        lambda: one(
            entities=[Entity(name="s", join_keys=["sku"], value_type=ValueType.STRING)]
        ),
        "whose keys are user_id, by sku",
    ),
}  # fmt: skip


def _tagged(made: Any, **tags: str) -> Any:
    made.tags = {**made.tags, **tags}
    return made


def _untagged(made: Any, tag: str) -> Any:
    made.tags = {key: value for key, value in made.tags.items() if key != tag}
    return made


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_a_sentence_when_definitions_are_read(mistake: str) -> None:
    make, said = WRONG[mistake]
    made = make()
    entities = {"s": Entity(name="s", join_keys=["sku"], value_type=ValueType.STRING)}
    repository = contents(made)
    repository.entities.extend(entities.values())
    with pytest.raises(DefinitionError) as error:
        purchases.computations_in(repository, Path("/nonexistent"))
    assert said in error.value.message
    assert error.value.message.rstrip(")").endswith((".", "?"))


def test_tags_of_aggregations_without_any_are_refused() -> None:
    log = contents(one()).data_sources[-1]
    made = FeatureView(
        name="buying", version="v1", entities=[buyer], source=log,
        schema=[Field(name="n", dtype=Int64, tags={"default": "0", "limit": "3"})],
        tags={"freshness": "hourly", "reads": "purchases", "filter": "gift"},
    )  # fmt: skip
    repository = contents(one())
    repository.feature_views[:] = [made]
    with pytest.raises(DefinitionError) as error:
        purchases.computations_in(repository, Path("/nonexistent"))
    assert "has the tag filter and no aggregations" in error.value.message
    assert "has the tag limit" in error.value.message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kind = 'buy'", None),
        ("kind = ';--(' AND (a[1] > 2)", None),
        ('"From" IS NULL', None),
        ("", "is empty"),
        ("a > 1; DROP TABLE t", "has a ;"),
        ("a > 1) OR (TRUE", "closes a )"),
        ("a > (1]", "closes a ]"),
        ("a > 1 -- so", "has a comment"),
        ("a /* so", "has a comment"),
        ("kind = 'buy", "has a '"),
        ("a = $1", "has a $"),
        ("a IN (SELECT 1)", "says SELECT"),
        ("at > now()", "says now"),
    ],
)
def test_a_filter_is_a_condition(text: str, problem: str | None) -> None:
    found = filter_problem(text)
    assert found is None if problem is None else problem in (found or "")


@pytest.fixture(scope="module")
def conn(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(TABLE)
        yield connection


AT_PLAN: dict[str, tuple[Any, str]] = {
    "a column that is not there": (lambda: one(column="cent"), "Did you mean cents?"),
    "fractions as whole numbers": (lambda: one(column="price"), "which is double precision: take"),
    "64 bits in 32": (lambda: one("max", dtype=Int32), "take Int64, or a column"),
    "a sum of text": (lambda: one(column="sku", dtype=Float64), "take a column of numbers"),
    "a text of a time": (
        lambda: one("last", "due_at", String), "its text depends on settings",
    ),
    "a time of a number": (
        lambda: one("max", "cents", UnixTimestamp), "take a timestamptz column",
    ),
    "a filter of no column": (
        lambda: one(tags={"filter": "color = 'red'"}), 'column "color" does not exist',
    ),
    "a filter that is none": (lambda: one(tags={"filter": "cents + 1"}), "boolean"),
    "a filter by the session's zone": (
        lambda: one(tags={"filter": "date_part('hour', bought_at) < 3"}), "AT TIME ZONE 'UTC'",
    ),
    "a filter that counts": (lambda: one(tags={"filter": "count(*) > 1"}), "aggregate functions"),
    "a filter that sees the question": (
        lambda: one(tags={"filter": "bought_at < as_of"}), 'column "as_of" does not exist',
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", AT_PLAN)
def test_a_mistake_about_columns_is_a_sentence_at_plan(
    mistake: str, conn: psycopg.Connection
) -> None:
    make, said = AT_PLAN[mistake]
    with pytest.raises(DefinitionError) as error:
        check_sources(conn, [computation_of(make())])
    assert said in error.value.message
    check_sources(conn, [computation_of(one(tags={"filter": "gift OR sku = 'a'"}))])


@pytest.mark.parametrize("column", ["pieces", "cents"])
def test_what_does_not_fit_is_an_error_and_never_another_number(
    column: str, conn: psycopg.Connection
) -> None:
    conn.execute("TRUNCATE purchases")
    values = {"pieces": 32_767, "cents": 2**62}
    purchases.store(conn, [purchases.purchase(n, **{column: values[column]}) for n in range(3)])
    computation = computation_of(one(column=column, window=None))
    asked = (
        "WITH spine AS (SELECT 1::bigint AS user_id, now() AS as_of) "
        f"SELECT spent FROM ({computation.sql}) AS c"
    )
    if column == "pieces":
        assert conn.execute(asked).fetchone() == (3 * 32_767,)
    else:
        with pytest.raises(psycopg.errors.NumericValueOutOfRange):
            conn.execute(asked)


def test_odd_names_are_quoted(conn: psycopg.Connection) -> None:
    conn.execute('CREATE TABLE "order" ("user_id" bigint, at timestamptz, "Group" integer)')
    odd = purchases.PostgreSQLSource(
        name="order", table="order", timestamp_field="at", tags={"keys": "user_id"}
    )
    computation = computation_of(one(column="Group", source=odd, tags={"filter": '"Group" > 1'}))
    assert computation.sql.count("<= s.as_of") == 1  # no arrival of its own
    check_sources(conn, [computation])


def test_another_compiler_does_not_edit_what_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    made = one()
    published = Definition.of_computation(computation_of(made), made)

    def another(declared: Any) -> str:
        return compiled_sql(declared).replace("count", "1 + count") + "\nLIMIT 10"

    monkeypatch.setattr("extensions.asof.computation_loading.compiled_sql", another)
    later = Definition.of_computation(computation_of(made), made)
    assert later.content["sql"] != published.content["sql"]
    assert later.changed(published) == []
    assert later.with_text_of(published) == published
    other = one(window=2 * DAY)
    edited = Definition.of_computation(computation_of(other), other)
    assert edited.changed(published) == ["SQL", "horizon"]
    assert edited.with_text_of(published) == edited


def test_the_id_of_the_source_is_part_of_the_declaration() -> None:
    definitions = []
    for has_id in (True, False):
        made = view(
            [Field(name="spent", dtype=Float32, tags={"default": "0"})],
            [Aggregation("price", "sum", DAY, name="spent")],
            has_id=has_id,
        )
        definitions.append(Definition.of_computation(computation_of(made), made))
    assert definitions[0].changed(definitions[1]) == ["SQL"]


def test_feast_does_not_warn_of_each_batch_view() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.resetwarnings()
        import importlib  # noqa: PLC0415

        from extensions.asof.aggregations import completion  # noqa: PLC0415

        importlib.reload(completion)
        one()
    assert told == []
