"""Replies: JSON in the published shapes, columns, msgpack and Arrow."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import orjson
import pyarrow as pa

from extensions.serving.asking import RefusedError
from extensions.serving.decoding import Values
from extensions.serving.freshness import Freshnesses
from extensions.serving.plan import Plan
from extensions.serving.reading import Rows

JSON = b"application/json"
ARROW = b"application/vnd.apache.arrow.stream"
MSGPACK = b"application/msgpack"
OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


@dataclass(frozen=True)
class Served:
    """Rows and what the transforms made of them: all that a reply is written from."""

    plan: Plan
    rows: Sequence[Rows]
    made: Mapping[str, Values]

    def columns(self, join_keys: tuple[str, ...]) -> dict[str, Values]:
        """The returned features of the views with just these join keys, in order."""
        return {
            name: rows.columns[feature]
            for rows in self.rows
            if rows.view.join_keys == join_keys
            for name, feature in zip(rows.view.names, rows.view.features, strict=True)
        }


def serve(plan: Plan, rows: Sequence[Rows], request: Mapping[str, Any], n: int) -> Served:
    """Run the plan's transforms over the rows."""
    made: dict[str, Values] = {}
    if plan.transforms:
        inputs: dict[str, Values] = {name: [value] for name, value in request.items()}
        for one in rows:
            inputs.update(one.columns)
        for transform in plan.transforms:
            if not n:
                made.update({name: [] for name in transform.features})
                continue
            try:
                made.update(transform.run(inputs, n))
            except Exception as error:  # the user's own code
                what = f"The transform {transform.name} failed: {type(error).__name__}: {error}"
                raise RefusedError(409, what) from error
    return Served(plan, rows, made)


def dumps(value: Any) -> bytes:
    """JSON; numpy as numbers, bytes as base64, sets as lists."""
    return orjson.dumps(value, default=_other, option=OPTIONS)


def single(columns: Mapping[str, Values]) -> dict[str, Any]:
    """The one row of columns of length 1."""
    return {name: column[0] for name, column in columns.items()}


def tokens(column: Values, n: int) -> list[bytes]:
    """Each value as JSON; numbers are written all at once and cut apart."""
    if len(column) == 1 and n != 1:
        return [dumps(column[0])] * n
    if isinstance(column, np.ndarray):
        return orjson.dumps(np.ascontiguousarray(column), option=OPTIONS)[1:-1].split(b",")
    if n and isinstance(column[0], str):
        known = {text: dumps(text) for text in set(column)}
        return [known[text] for text in column]
    return [dumps(value) for value in column]


def template(parts: Iterable[tuple[str | None, Mapping[str, Values]]], first: str) -> bytes:
    """A row as text with a place for each value: ``{"first":%b,"part":{"name":%b,…},…}``."""
    pieces = [_quoted(first) + b":%b"]
    for name, columns in parts:
        inner = b",".join(_quoted(one) + b":%b" for one in columns)
        pieces.append(inner if name is None else _quoted(name) + b":{" + inner + b"}")
    return b"{" + b",".join(piece for piece in pieces if piece) + b"}"


def ranked_rows(
    ids: Sequence[Any], items: Mapping[str, Values], interactions: Mapping[str, Values]
) -> bytes:
    """The items of a ranking as a JSON array."""
    n = len(ids)
    if not n:
        return b"[]"
    text = template([("itemFeatures", items), ("interactionFeatures", interactions)], "itemId")
    places = [tokens(list(ids) if isinstance(ids[0], str) else _numbers(ids), n)]
    places += [tokens(column, n) for column in (*items.values(), *interactions.values())]
    return b"[" + b",".join([text % row for row in zip(*places, strict=True)]) + b"]"


def meta(served: Served, freshnesses: Freshnesses, now: int) -> dict[str, Any]:
    """Per view: version, as-of time, status and the definition's fingerprint."""
    found = {}
    for rows in served.rows:
        status = freshnesses.statuses(rows.view, rows.present, rows.events, now)
        as_of = [
            np.datetime_as_string(np.datetime64(event, "us"), timezone="UTC") if held else None
            for event, held in zip(rows.events.tolist(), rows.present.tolist(), strict=True)
        ]
        alone = len(status) == 1
        found[rows.view.name] = {
            "version": rows.view.version,
            "asOf": as_of[0] if alone else as_of,
            "status": status[0] if alone else status,
            "fingerprint": rows.view.fingerprint,
        }
    return found


def packed(value: Any) -> bytes:
    """Msgpack of the same shape as the JSON."""
    data: bytes = msgpack.packb(value, default=_plain)
    return data


def arrow(columns: Mapping[str, Values], n: int, aside: Mapping[str, Any]) -> bytes:
    """An Arrow stream of one batch; what is the same for all rows is in the schema's metadata."""
    arrays, names = [], []
    for name, column in columns.items():
        spread = [column[0]] * n if len(column) == 1 and n != 1 else column
        arrays.append(pa.array(spread))
        names.append(name)
    batch = pa.RecordBatch.from_arrays(arrays, names=names)
    batch = batch.replace_schema_metadata({key: dumps(value) for key, value in aside.items()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _numbers(ids: Sequence[int]) -> Values:
    return np.array(ids, np.int64)


def _quoted(name: str) -> bytes:
    return dumps(name).replace(b"%", b"%%")


def _other(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, (set, frozenset)):
        return list(value)
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return _other(value)
