"""Training at t is HTTP at t for generated services: renamed views, and transforms over two views.

The views are those of `test_generated_views`. Services rename them, read them by other join keys,
read one twice, and have transforms of two views. What a route does not serve it must refuse, and
name the view; so must what no training set can be made of.
"""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import pandas as pd
import pytest
from feast import FeatureService, FeatureStore, FeatureView, Field
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.transformation.pandas_transformation import PandasTransformation
from feast.transformation.python_transformation import PythonTransformation
from feast.types import Float64, String

from extensions.database import connect
from extensions.errors import DefinitionError
from tests.serving.redis_nodes import until
from tests.serving.test_generated_views import Drawn, applied, definition, plain

VIEWS = int(os.environ.get("EXAMPLES", "8"))
SEED = int(os.environ.get("SKEWLESS_SEED", "31"))
NUMBERS = ("double", "real", "whole", "small", "flag")
# The views of this file beside those of the other.
FIRST = 1_000


@dataclass
class Case:
    """A service: what is asked of it, and what it answers.

    Attributes:
        name: The service's.
        features: What it reads.
        entities: One request's ids, by row: their names and values.
        outputs: Each feature that is compared, and the kind of its values.
        full: Whether names have the view's before them.
        refused: Whether /v1 says that it does not serve it.
        ours: Whether only our plans can serve it: a view under another name beside a transform that
            reads it by its own. Feast's online code fails (a KeyError of the input's name).
    """

    name: str
    features: list[Any]
    entities: list[dict[str, Any]]
    outputs: dict[str, str]
    full: bool = False
    refused: bool = False
    ours: bool = False
    # A transform of a view without entities and one with some, of a type that our route leaves to
    # Feast's code: that asks it for every key of the registry, and refuses where one is missing.
    may_miss_keys: bool = False
    transforms: list[OnDemandFeatureView] = field(default_factory=list)


def entities_of(*drawn: Drawn) -> list[dict[str, Any]]:
    """The first entities of each view, side by side."""
    rows = []
    for place in range(max(len(one.entities) for one in drawn)):
        row: dict[str, Any] = {}
        for one in drawn:
            ids = one.entities[place % len(one.entities)]
            for key, value in zip(one.keys, ids, strict=True):
                row.setdefault(f"gen_{key}", value)
        rows.append(row)
    return rows


def other_keys(one: Drawn) -> dict[str, str]:
    return {f"gen_{key}": f"asked_{key}" for key in one.keys}


def renamed(one: Drawn) -> Case:
    view = one.view.with_name(f"alias_of_{one.name}")
    features = [view, *([one.transform] if one.transform is not None else [])]
    outputs = dict(one.features)
    if one.transform is not None:
        outputs |= {f.name: "double" for f in one.transform.features}
    ours = one.transform is not None
    return Case(f"renamed_{one.name}", features, entities_of(one), outputs, ours=ours)


def by_other_keys(one: Drawn) -> Case:
    view = one.view.with_join_key_map(other_keys(one))
    rows = [{other_keys(one)[k]: v for k, v in row.items()} for row in entities_of(one)]
    return Case(f"mapped_{one.name}", [view], rows, dict(one.features), refused=True)


def twice(one: Drawn, draw: random.Random) -> Case:
    """The view under two names, of which one is of other entities.

    Feast cannot compare a service that names a view once by its own name: both have another.
    """
    own, alias = f"first_{one.name}", f"second_{one.name}"
    view = one.view.with_name(alias).with_join_key_map(other_keys(one))
    rows = entities_of(one)
    seconds = draw.sample(rows, len(rows))
    asked = [
        {**row, **{other_keys(one)[k]: v for k, v in second.items()}}
        for row, second in zip(rows, seconds, strict=True)
    ]
    outputs = {f"{name}__{f}": kind for name in (own, alias)
               for f, kind in one.features.items()}  # fmt: skip
    return Case(
        f"twice_{one.name}",
        [one.view.with_name(own), view],
        asked,
        outputs,
        full=True,
        refused=True,
    )


def number_of(one: Drawn) -> str | None:
    return next((f for f, kind in one.features.items() if kind in NUMBERS), None)


def across(first: Drawn, second: Drawn, draw: random.Random) -> Case | None:
    """A transform of a number of each view; the service has both views, one, or neither."""
    a, b = number_of(first), number_of(second)
    if a is None or b is None:
        return None
    made = f"both_{a}_{b}"
    sources: list[FeatureView] = [first.view, second.view]
    python = draw.random() < 0.5
    if python:  # of a view with a decimal Feast makes no sample for it
        sources = [sources[0][[a]], sources[1][[b]]]
    view = sum_of(made, a, b, sources, python=python)
    features: list[Any] = [view]
    outputs = {made: "double", f"{made}_text": "word"}
    for one in draw.choice([[], [first], [second], [first, second]]):
        features.append(one.view)
        outputs |= one.features
    return Case(
        made, features, entities_of(first, second), outputs, transforms=[view],
        may_miss_keys=bool(first.keys) != bool(second.keys),
    )  # fmt: skip


def sum_of(
    made: str, a: str, b: str, sources: list[FeatureView], *, python: bool
) -> OnDemandFeatureView:
    """``a`` / 2 + ``b``, and a text that tells which of them are missing."""
    if python:
        source = (
            f"def {made}(inputs):\n"
            f"    def held(value):\n"
            f"        return None if value is None or value != value else float(value)\n"
            f"    pairs = [(held(x), held(y)) for x, y in zip(inputs[{a!r}], inputs[{b!r}])]\n"
            f"    return {{\n"
            f"        {made!r}: [None if None in p else p[0] / 2 + p[1] for p in pairs],\n"
            f"        {made + '_text'!r}: ['%s%s' % (p[0] is None, p[1] is None) for p in pairs],\n"
            f"    }}\n"
        )
    else:
        source = (
            f"def {made}(inputs):\n"
            f"    import pandas as pd\n"
            f"    x, y = inputs[{a!r}].astype('float64'), inputs[{b!r}].astype('float64')\n"
            f"    told = x.isna().map(str) + y.isna().map(str)\n"
            f"    return pd.DataFrame({{{made!r}: x / 2 + y, {made + '_text'!r}: told}})\n"
        )
    held: dict[str, Any] = {}
    exec(source, held)
    transformation = PythonTransformation if python else PandasTransformation
    return OnDemandFeatureView(
        name=made,
        sources=sources,
        schema=[Field(name=made, dtype=Float64), Field(name=f"{made}_text", dtype=String)],
        feature_transformation=transformation(udf=held[made], udf_string=source),
        mode="python" if python else "pandas",
    )


def cases_of(drawn: list[Drawn], draw: random.Random) -> list[Case]:
    found: list[Case | None] = [renamed(one) for one in drawn]
    keyed = [one for one in drawn if one.keys]
    found += [by_other_keys(one) for one in keyed[::2]]
    found += [twice(one, draw) for one in keyed[1::2]]
    numbered = [one for one in drawn if number_of(one)]
    pairs = [draw.sample(numbered, 2) for _ in range(len(drawn))]
    distinct = {(a.name, b.name): (a, b) for a, b in pairs}
    found += [across(a, b, draw) for a, b in distinct.values()]
    return [one for one in found if one is not None]


@pytest.fixture(scope="module")
def cases(feast_store: FeatureStore, database: str) -> list[Case]:
    draw = random.Random(SEED)
    now = datetime.now(UTC).replace(microsecond=0)
    with connect(database, autocommit=True) as conn:
        drawn = [definition(draw, FIRST + number, conn, now) for number in range(VIEWS)]
    cases = cases_of(drawn, draw)
    transforms = [one.transform for one in drawn if one.transform is not None]
    transforms += [each for one in cases for each in one.transforms]
    services = [FeatureService(name=one.name, features=one.features) for one in cases]
    applied(feast_store, drawn, transforms, services, now)
    return cases


@pytest.fixture(scope="module")
def client(cases: list[Case], http: httpx.Client) -> httpx.Client:
    # The server has taken up the registry when it knows the last service, whatever it says of it.
    until(lambda: feast_route(http, cases[-1]).status_code != 404, 60)
    return http


def feast_route(http: httpx.Client, one: Case) -> httpx.Response:
    names = list(one.entities[0])
    body = {
        "feature_service": one.name,
        "entities": {n: [row[n] for row in one.entities] for n in names},
        "full_feature_names": one.full,
    }
    return http.post("/get-online-features", json=body)


def answered(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """The reply; on a machine that is busy, Redis may be called away for a moment."""
    replies: list[httpx.Response] = []

    def done() -> bool:
        replies.append(ask())
        return replies[-1].status_code != 503

    until(done, 30)
    return replies[-1]


def trained(store: FeatureStore, one: Case) -> list[dict[str, Any]]:
    frame = pd.DataFrame(one.entities, index=range(len(one.entities)))
    frame["event_timestamp"] = datetime.now(UTC)
    service = store.get_feature_service(one.name)
    job = store.get_historical_features(frame, service, full_feature_names=one.full)
    rows = job.to_arrow().to_pylist()
    return [{f: plain(kind, row[f]) for f, kind in one.outputs.items()} for row in rows]


def served(client: httpx.Client, one: Case) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """What each route answers about the entities."""
    if one.entities[0]:  # Feast's route asks for entities
        reply = answered(lambda: feast_route(client, one))
        if one.ours and reply.status_code != 200:
            assert "x-feature-latency-ms" not in reply.headers, (one.name, reply.text)
        elif one.may_miss_keys and reply.status_code != 200:
            assert "Missing join key values" in reply.text, (one.name, reply.text)
        elif reply.status_code != 200:
            yield f"/get-online-features: {reply.text}", []
            return
        else:
            names = reply.json()["metadata"]["feature_names"]
            columns = [result["values"] for result in reply.json()["results"]]
            yield (
                "/get-online-features",
                [
                    {name: column[i] for name, column in zip(names, columns, strict=True)}
                    for i in range(len(one.entities))
                ],
            )
    body = {"service": one.name, "entities": one.entities}
    reply = answered(lambda: client.post("/v1/features", json=body))
    if one.refused:
        assert reply.status_code == 409, (one.name, reply.text)
        assert "/get-online-features serves it" in reply.json()["error"]["message"]
        return
    assert reply.status_code == 200, (one.name, reply.text)
    yield "/v1/features", [result["features"] for result in reply.json()["results"]]


def test_training_at_t_is_http_at_t(
    client: httpx.Client, feast_store: FeatureStore, cases: list[Case]
) -> None:
    kinds = {one.name.partition("_")[0] for one in cases}
    assert kinds == {"renamed", "mapped", "twice", "both"}
    compared = 0
    told: list[tuple[Any, ...]] = []
    for one in cases:
        expected = trained(feast_store, one)
        for route, rows in served(client, one):
            if not rows:
                told.append((one.name, route))
                continue
            for asked, want, got in zip(one.entities, expected, rows, strict=True):
                for feature, kind in one.outputs.items():
                    compared += 1
                    if feature not in got or plain(kind, got[feature]) != want[feature]:
                        told.append((route, one.name, asked, feature, want[feature],
                                     got.get(feature, sorted(got))))  # fmt: skip
    assert not told, (len(told), compared, told[:4])
    assert compared > 8 * VIEWS


def test_a_name_of_two_views_is_refused_when_it_is_applied(feast_store: FeatureStore) -> None:
    """Feast knows a service's views by name, and read the one for the other."""
    [first, second] = [feast_store.get_feature_view(n) for n in ("user_habits", "item_stats")]
    a, b = (next(f.name for f in each.features) for each in (first, second))
    direct = FeatureService(name="two_of_a_name", features=[first.with_name(second.name), second])
    with pytest.raises(DefinitionError, match="reads user_habits under the name item_stats, and"):
        feast_store.apply([direct])
    view = sum_of("of_both", a, b, [first, second], python=False)
    behind = FeatureService(name="two_of_a_name", features=[first.with_name(second.name), view])
    with pytest.raises(DefinitionError, match="reads user_habits under the name item_stats, and"):
        feast_store.apply([view, behind])
    names = [each.name for each in feast_store.list_feature_services()]
    assert "two_of_a_name" not in names


def test_a_transform_of_a_renamed_view_is_refused_when_it_is_read(
    feast_store: FeatureStore,
) -> None:
    """Feast's training join found no view of the name, by a KeyError."""
    [first, second] = [feast_store.get_feature_view(n) for n in ("user_habits", "item_stats")]
    a, b = (next(f.name for f in each.features) for each in (first, second))
    view = sum_of("of_renamed", a, b, [first, second.with_name("others")], python=False)
    with pytest.raises(DefinitionError, match="of_renamed reads item_stats under the name others"):
        feast_store.apply([view])
