"""What JSON leaves open, or Python takes beyond it, on every route with a body: one refusal.

The routes and their examples are those of the OpenAPI document, so that a new route is asked, too.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.serving.test_document import FEASTS

# Another value of the same key, so that which of the two counts would be seen.
_OTHER = {"user_id": 5, "userId": 5, "itemIds": [5], "item_id": 5}


@pytest.fixture(scope="module")
def bodies(http: httpx.Client) -> dict[str, Any]:
    """By route, an example of its body."""
    return {
        path: next(iter(content["examples"].values()))["value"]
        for path, operations in http.get("/openapi.json").json()["paths"].items()
        for content in [operations.get("post", {}).get("requestBody", {}).get("content", {})]
        for content in [content.get("application/json", {})]
        if content.get("examples")
    }


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each member of each object."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield (*path, key)
            yield from places(below, (*path, key))
    if isinstance(value, list) and value:
        yield from places(value[-1], (*path, len(value) - 1))


def written(value: Any, at: tuple[Any, ...], replaced: str, *, twice: bool = False) -> bytes:
    """The value as JSON with the text ``replaced`` in one place, or there for a second time."""

    def write(value: Any, path: tuple[Any, ...]) -> str:
        if path == at and not twice:
            return replaced
        if isinstance(value, list):
            return f"[{','.join(write(one, (*path, i)) for i, one in enumerate(value))}]"
        if not isinstance(value, dict):
            return json.dumps(value)
        members = [(key, write(below, (*path, key))) for key, below in value.items()]
        if twice and path == at[:-1]:
            members.append((at[-1], replaced))
        return f"{{{','.join(f'{json.dumps(key)}:{below}' for key, below in members)}}}"

    return write(value, ()).encode("utf-8", "surrogatepass")


def refusal(answer: httpx.Response, where: object) -> dict[str, Any]:
    assert 400 <= answer.status_code < 500, (where, answer.status_code, answer.text)
    error: dict[str, Any] = answer.json()["error"]
    assert error["message"], where
    return error


def send(http: httpx.Client, path: str, body: bytes) -> httpx.Response:
    path = path.replace("{vector_store_id}", "user_habits")
    return http.post(path, content=body, headers={"content-type": "application/json"})


def test_the_routes_with_bodies_are_found(bodies: dict[str, Any]) -> None:
    assert {"/v1/features", "/v1/features/rank", "/get-online-features", "/push",
            "/write-to-online-store", "/materialize"} <= bodies.keys()  # fmt: skip


def test_a_key_that_stands_twice_is_refused_wherever_it_stands(
    http: httpx.Client, bodies: dict[str, Any]
) -> None:
    asked = 0
    for path, body in bodies.items():
        for place in places(body):
            second = json.dumps(_OTHER.get(place[-1]))
            answer = send(http, path, written(body, place, second, twice=True))
            error = refusal(answer, (path, place))
            # The decoder may find the second value itself wrong before.
            if path in FEASTS or "twice" in error["message"]:
                assert error["field"] == place[-1]
                asked += 1
    assert asked > 20


@pytest.mark.parametrize("spelt", ['"user_id"', '"user\\u005fid"'])
def test_a_key_is_the_same_however_it_is_spelt(http: httpx.Client, spelt: str) -> None:
    body = f'{{"service":"home_page","entities":[{{"user_id":1}},{{"user_id":2,{spelt}:1}}]}}'
    error = refusal(send(http, "/v1/features", body.encode()), spelt)
    assert error == {"message": "An object has the key user_id twice.", "field": "user_id"}


def test_a_colon_that_is_escaped_hides_no_key(http: httpx.Client) -> None:
    body = (
        '{"features":["user_habits\\u003auser_preferred_hour"],"entities":{"user_id":[1]},'
        '"entities":{"user_id":[2]}}'
    )
    assert refusal(send(http, "/get-online-features", body.encode()), body)["field"] == "entities"


def test_texts_with_colons_are_no_keys(http: httpx.Client) -> None:
    body = {"features": ["user_habits:user_preferred_hour"], "entities": {"user_id": [1, 2]}}
    assert http.post("/get-online-features", json=body).status_code == 200
    spaced = b'{ "service" : "home_page" , "layout":"rows", "entities" : [{"user_id" : 1}] }'
    assert send(http, "/v1/features", spaced).status_code == 200


WRONG = {
    "deep list": "[" * 30_000 + "]" * 30_000,
    "deep object": '{"a":' * 30_000 + "1" + "}" * 30_000,
    "as deep as parsers differ": "[" * 1_000 + "]" * 1_000,
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "too large": "1e999",
    "very long": "1" * 5_000,
    "lone surrogate": '"\\ud800"',
    "surrogate's bytes": '"\ud800"',
    "NUL": '"a\\u0000b"',
}


@pytest.mark.filterwarnings("ignore:Cannot write dataframe with empty feature columns")
@pytest.mark.parametrize("wrong", WRONG)
def test_what_no_value_can_be_is_refused_on_every_route(
    http: httpx.Client, bodies: dict[str, Any], wrong: str
) -> None:
    """Where a free text or a float is asked for, Feast's routes may answer; none fails."""
    for path, body in bodies.items():
        found = list(places(body))
        for place in {found[0], found[-1], ("no such field",)}:
            text = written(body, place, WRONG[wrong], twice=place == ("no such field",))
            answer = send(http, path, text)
            assert answer.status_code < 500, (path, place, answer.text)
            if answer.status_code >= 400:
                refusal(answer, (path, place))
            else:
                assert path in FEASTS, (path, place)


@pytest.mark.parametrize("at", ["Infinity", "-1e999", "1e300", "NaN"])
def test_a_pushed_time_is_a_time(http: httpx.Client, bodies: dict[str, Any], at: str) -> None:
    """A number beyond 64 bits would be cast into any time at all."""
    for path in ("/push", "/write-to-online-store"):
        text = written(bodies[path], ("df", "event_timestamp"), f"[{at}]")
        message = refusal(send(http, path, text), path)["message"]
        assert re.search(r"event_timestamp|no event time", message)
