"""Whatever is sent: a refusal that names the field, or the right answer; never another's value.

Ids are texts here, and each row says whose it is, so that a reply shows if it is another's.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import orjson
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import String
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extensions.serving.http.responses import text_tokens
from extensions.serving.settings import Settings
from extensions.stores.log_publishing import online_store
from tests.online.views import key
from tests.served import serving

STRANGE = [
    "", " ", "5", "-5", "05", "5.0", ":", "a:b", "a", "b", "a\nb", "a\r\n", "|", "a|b", "'", '"',
    "a'b", 'a"b', "\\", "%", "%41", "A", "{a}", "*", "[a]", "?", "=a", "~a", "1:a", "1:a1:b",
    "ä", "a\u0308", "🎬", "\u202e", "x" * 10_000, "x" * 9_999, "null", "true", "a/b", "..", "#",
]  # fmt: skip
REFUSED = ["a\0b", "\0", "a\0"]  # no text of PostgreSQL holds NUL
UNKNOWN = ["c", "a:", ":b", "a\n", "x" * 9_998, "$"]
MOST = 50
RELAXED = settings(
    max_examples=int(os.environ.get("EXAMPLES", "80")),
    deadline=None,
    derandomize="EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def said(label: str, part: str) -> str:
    return json.dumps([label, part])


@pytest.fixture(scope="module")
def http(feast_store: FeatureStore, repo_root: Path) -> Iterator[httpx.Client]:
    label, part = (
        Entity(name=name, join_keys=[name], value_type=ValueType.STRING)
        for name in ("label", "part")
    )
    source = FileSource(name="nowhere", path="/dev/null", timestamp_field="event_timestamp")
    views = [
        FeatureView(
            name=name,
            entities=entities,
            ttl=timedelta(0),
            source=source,
            schema=[Field(name=f"{name}_said", dtype=String),
                    *(Field(name=one.name, dtype=String) for one in entities)],
        )
        for name, entities in (("labels", [label]), ("pairs", [label, part]))
    ]  # fmt: skip
    services = [
        FeatureService(
            name="labelled",
            features=views[:1],
            tags={"route": "/v1/features/label/{user_id}", "names": "label=userId"},
        ),
        FeatureService(
            name="paired",
            features=views,
            tags={
                "route": "/v1/features/pairs",
                "names": "label=userId, part=itemId, part[]=itemIds, features=userFeatures, "
                "item_features=itemFeatures, pair_features=interactionFeatures",
            },
        ),
    ]
    feast_store.apply([label, part, *views, *services], partial=True)
    online, now = online_store(feast_store), datetime.now(UTC)
    kept = [feast_store.get_feature_view(one.name) for one in views]
    for view, ids in (
        (kept[0], [{"label": one} for one in STRANGE]),
        (kept[1], [{"label": one, "part": two} for one in STRANGE for two in STRANGE[:-6:3]]),
    ):
        rows = [
            (key(**one), {f"{view.name}_said": Value(string_val=whose(one))}, now, None)
            for one in ids
        ]
        online.online_write_batch(feast_store.config, view, rows, None)
    made = Settings(
        repo=repo_root,
        max_items=MOST,
        poll=0.2,
        redis_deadline_ms=2_000,  # this is not about speed
    )
    for url in serving(made, feast_store):
        with httpx.Client(base_url=url, timeout=10) as client:
            yield client


def whose(ids: dict[str, str]) -> str:
    return said(ids["label"], ids["part"]) if "part" in ids else ids["label"]


@pytest.mark.parametrize("label", [*STRANGE, *UNKNOWN], ids=lambda one: ascii(one[:12]))
def test_an_id_in_the_path_is_that_id_and_no_other(http: httpx.Client, label: str) -> None:
    answer = http.get(f"/v1/features/label/{quote(label, safe='')}")
    if label == "..":  # a client goes up the path instead
        return
    if not label:
        assert answer.status_code in (200, 404, 405, 422)
    else:
        assert answer.status_code == 200, answer.text
    if answer.status_code == 200:
        assert answer.json()["userId"] == label
        expected = label if label in STRANGE else None
        assert answer.json()["features"] == {"labels_said": expected}


@pytest.mark.parametrize("label", REFUSED, ids=ascii)
def test_an_id_that_no_log_can_hold_is_refused_with_a_sentence(
    http: httpx.Client, label: str
) -> None:
    answers = [
        (http.get(f"/v1/features/label/{quote(label, safe='')}"), "label"),
        (http.post("/v1/features/pairs", json={"userId": label, "itemIds": []}), "userId"),
        (http.post("/v1/features/pairs", json={"userId": "a", "itemIds": ["a", label]}),
         "itemIds[1]"),
        (http.post("/v1/features", json={"service": "labelled", "entities": [{"label": label}]}),
         "entities[0].label"),
    ]  # fmt: skip
    for answer, field in answers:
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"]["field"] == field
        assert "NUL" in answer.json()["error"]["message"]
    body = {"feature_service": "labelled", "entities": {"label": [label]}}
    answer = http.post("/get-online-features", json=body)
    assert answer.status_code == 422
    assert "NUL" in answer.json()["error"]["message"]


def test_rankings_of_strange_ids(http: httpx.Client) -> None:
    for label in (*STRANGE[:30], *UNKNOWN):
        items = [*STRANGE[:-6], *UNKNOWN, "5", "5"]
        answer = http.post("/v1/features/pairs", json={"userId": label, "itemIds": items})
        assert answer.status_code == 200, answer.text
        check_ranking(answer.json(), label, items)


@RELAXED
@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1))
def test_texts_are_written_as_json_writes_them(texts: list[str]) -> None:
    """Also those with what stands between two texts of a JSON array."""
    for some in (texts, [*texts, '","', '"', "\\", '\\","', "\0", ',"', '",']):
        assert text_tokens(some) == [orjson.dumps(one) for one in some]


def check_ranking(body: Any, label: str, items: list[str]) -> None:
    assert body["userId"] == label
    expected = label if label in STRANGE else None
    assert body["userFeatures"] == {"labels_said": expected}
    assert [one["itemId"] for one in body["items"]] == items
    for one in body["items"]:
        there = label in STRANGE and one["itemId"] in STRANGE[:-6:3]
        found = one["interactionFeatures"]["pairs_said"]
        assert found == (said(label, one["itemId"]) if there else None)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True),
    st.text(max_size=20),
    st.sampled_from([*STRANGE[:33], *UNKNOWN]),
    st.sampled_from(["x" * 10_241, "ä" * 6_000, "\ud800"]),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
IDS = st.lists(st.sampled_from([*STRANGE[:33], *UNKNOWN]), max_size=12)


@st.composite
def nearly(draw: Any, good: dict[str, Any]) -> Any:
    """A good request with something about it changed, or not."""
    body = dict(good)
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.one_of(st.sampled_from(sorted(good)), st.text(max_size=8)))
        if draw(st.booleans()):
            body.pop(name, None)
        else:
            body[name] = draw(ANYTHING)
    return body


@st.composite
def rankings(draw: Any) -> Any:
    many = st.one_of(IDS, st.lists(ANYTHING, max_size=5), st.just(["a"] * (MOST + 1)))
    good = {
        "userId": draw(st.sampled_from([*STRANGE[:33], *UNKNOWN])),
        "itemIds": draw(many),
        "context": draw(st.sampled_from([None, {}, {"requestHour": 3}])),
        "layout": draw(st.sampled_from(["rows", "columns"])),
    }
    return draw(nearly(good))


@st.composite
def batches(draw: Any) -> Any:
    service = draw(st.sampled_from(["labelled", "paired", "home_page", "ranking", "nothing"]))
    rows = draw(
        st.lists(
            st.one_of(
                st.sampled_from([*STRANGE[:33], *UNKNOWN]).map(lambda one: {"label": one}),
                st.tuples(st.sampled_from(STRANGE[:33]), st.sampled_from(STRANGE[:33])).map(
                    lambda one: {"label": one[0], "part": one[1]}
                ),
                st.integers(-3, 30).map(lambda one: {"user_id": one}),
                st.dictionaries(st.sampled_from(["label", "part", "user_id"]), ANYTHING),
                ANYTHING,
            ),
            max_size=4,
        )
    )
    return draw(nearly({"service": service, "entities": rows}))


def written(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=True).encode()


def refused_well(answer: httpx.Response) -> None:
    assert 400 <= answer.status_code < 500, answer.text
    error = answer.json()["error"]
    assert error["message"]
    if answer.status_code in (404, 409, 422) and "JSON object" not in error["message"]:
        assert "field" in error


@RELAXED
@given(body=st.one_of(rankings(), ANYTHING))
def test_any_ranking(http: httpx.Client, body: Any) -> None:
    answer = http.post("/v1/features/pairs", content=written(body))
    if answer.status_code != 200:
        refused_well(answer)
        return
    if body.get("layout", "rows") == "rows":
        check_ranking(answer.json(), body["userId"], body["itemIds"])
    else:
        assert answer.json()["itemIds"] == body["itemIds"]


@RELAXED
@given(body=st.one_of(batches(), ANYTHING))
def test_any_batch(http: httpx.Client, body: Any) -> None:
    answer = http.post("/v1/features", content=written(body))
    if answer.status_code != 200:
        refused_well(answer)
        return
    if body.get("layout", "rows") != "rows":
        return
    rows = answer.json()["results"]
    assert [one["entity"] for one in rows] == body["entities"]
    for one in rows:
        if "label" in one["entity"]:
            label = one["entity"]["label"]
            expected = label if label in STRANGE else None
            assert one["features"]["labels_said"] == expected


@RELAXED
@given(raw=st.binary(max_size=60), accept=st.text(st.characters(max_codepoint=126), max_size=20))
def test_any_bytes_and_headers(http: httpx.Client, raw: bytes, accept: str) -> None:
    headers = {}
    with contextlib.suppress(UnicodeEncodeError):
        if accept.isprintable() and accept.strip() == accept:
            headers["accept"] = accept
    for path in ("/v1/features/pairs", "/v1/features"):
        refused_well(http.post(path, content=raw, headers=headers))
    answer = http.get(f"/v1/features/label/{quote(raw, safe='')}", headers=headers)
    assert answer.status_code in (200, 422)


@pytest.mark.parametrize("path", ["/v1/features/pairs", "/v1/features"])
def test_sizes_and_odd_requests(http: httpx.Client, path: str) -> None:
    for body, status in (
        (b'{"userId": "a", "itemIds": [%s]}' % b",".join([b'"a"'] * 10_001), 422),
        (b" " * 2_000_000, 413),
        (b"[" * 500_000, 400),
        (b'{"a":' * 100_000, 400),
        (b"", 400),
        (b"null", 422),
        (b'{"userId": "a", "userId": "b", "itemIds": []}', None),
        (b'{"userId": NaN, "itemIds": []}', 400),
        (b'{"userId": "\xff", "itemIds": []}', 400),
        (b"\xef\xbb\xbf{}", 400),
    ):
        answer = http.post(path, content=body)
        assert answer.status_code < 500
        if status and not (path == "/v1/features" and status == 422):
            assert answer.status_code == status, answer.text
        if answer.status_code != 200:
            refused_well(answer)

    def pieces() -> Iterator[bytes]:  # no length said beforehand
        for _ in range(40):
            yield b" " * 50_000

    assert http.post(path, content=pieces()).status_code == 413
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert http.request(method, path).status_code == 405
    assert http.head("/v1/features/label/a").status_code == 405
    for query in ("include=meta", "include=", "include=x&include=meta", "include=%ff", "%", "=&="):
        answer = http.post(f"{path}?{query}", content=b"{}")
        assert answer.status_code == 422
    assert http.get(f"/v1/features/label/a?{query}").status_code == 200
