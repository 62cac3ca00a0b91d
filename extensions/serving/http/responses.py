"""Writes responses: JSON rows and columns, msgpack and Arrow."""

import base64
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgpack
import numpy as np
import orjson
import pyarrow as pa

from extensions.service_routes import ReplyNames
from extensions.serving.features.entity_ids import EntityIds
from extensions.serving.features.feature_reader import ViewRows
from extensions.serving.features.request_plan import Plan
from extensions.serving.http.request_validation import RefusedError
from extensions.serving.near_cache.cached_views import NearCache
from extensions.serving.observability.registry_and_watermark_watcher import Watermarks
from extensions.stores.online_codec.coded_columns import (
    Coded,
    Groups,
    Values,
    codes,
    grouped,
    spread,
    taken,
)

JSON = b"application/json"
ARROW = b"application/vnd.apache.arrow.stream"
MSGPACK = b"application/msgpack"
OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


# Up to this many rows, grouping equal rows costs more than it saves.
MIN_ROWS_TO_GROUP = 16


@dataclass
class FeatureRows:
    """The rows of all views and the transforms' outputs: what a response is written from.

    ``groups``: rows that are equal in the transforms' inputs and in the features of the pair of
    entities; None: no grouping. ``transformed_groups``: the outputs, one value for each group.
    """

    plan: Plan
    rows: Sequence[ViewRows]
    transformed_groups: Mapping[str, Values]
    groups: Groups | None = None

    @cached_property
    def transformed(self) -> Mapping[str, Values]:
        """The transforms' outputs for each row."""
        if self.groups is None:
            return self.transformed_groups
        return {
            name: taken(column, self.groups.inverse)
            for name, column in self.transformed_groups.items()
        }

    def entity(self, join_keys: tuple[str, ...]) -> dict[str, Any]:
        """The features of the views with exactly these join keys, of their first row."""
        found = {}
        for rows in self.rows:
            view = rows.view
            if view.place.join_keys == join_keys:
                for name, feature in zip(view.names, view.features, strict=True):
                    found[name] = rows.unique_columns[feature][0]
        return found

    def single(self, join_keys: tuple[str, ...]) -> dict[str, Any]:
        """As `entity`, with the transforms' outputs."""
        found = self.entity(join_keys)
        for name, column in self.transformed_groups.items():
            found[name] = column[0]
        return found

    def columns(self, join_keys: tuple[str, ...]) -> dict[str, Values]:
        """The returned features of the views with exactly these join keys, as columns."""
        return {
            name: rows.columns[feature]
            for rows in self.rows
            if rows.view.join_keys == join_keys
            for name, feature in zip(rows.view.names, rows.view.features, strict=True)
        }


def apply_transforms(
    plan: Plan, rows: Sequence[ViewRows], request: Mapping[str, Any], n: int
) -> FeatureRows:
    """Run the plan's transforms, once for each group of equal rows.

    Raises:
        RefusedError: 409, a transform failed.
    """
    if not n:
        return FeatureRows(
            plan, rows, {name: [] for transform in plan.transforms for name in transform.features}
        )
    groups = _groups(plan, rows, request, n) if n > MIN_ROWS_TO_GROUP else None
    transformed_groups: dict[str, Values] = {}
    if plan.transforms:
        inputs = dict(_request(request, groups))
        for view_rows in rows:
            inputs.update(
                view_rows.columns if groups is None else _of_groups(plan, view_rows, groups)
            )
        count = n if groups is None else len(groups.first)
        for transform in plan.transforms:
            try:
                transformed_groups.update(transform.run(inputs, count))
            except Exception as error:  # the user's own code
                what = f"The transform {transform.name} failed: {type(error).__name__}: {error}"
                raise RefusedError(409, what) from error
    return FeatureRows(plan, rows, transformed_groups, groups)


def _request(request: Mapping[str, Any], groups: Groups | None) -> Iterator[tuple[str, Values]]:
    """The request fields as columns of length 1 or one value for each group."""
    for name, value in request.items():
        if not isinstance(value, (list, np.ndarray)):
            yield name, [value]
        else:
            yield name, value if groups is None or len(value) == 1 else taken(value, groups.first)


def _groups(
    plan: Plan, rows: Sequence[ViewRows], request: Mapping[str, Any], n: int
) -> Groups | None:
    parts = []
    for value in request.values():
        if isinstance(value, (list, np.ndarray)) and len(value) > 1:
            part = codes(value)
            if part is None:
                return None
            parts.append(part)
    for view_rows in rows:
        if view_rows.inverse is not None and view_rows.view.place.composite:
            parts.append((view_rows.inverse, len(view_rows.unique_present)))
            continue
        names = plan.read.get(id(view_rows.view), ())
        for name in {*names, *view_rows.view.features} if view_rows.view.place.composite else names:
            column = view_rows.columns[name]
            if len(column) == 1:
                continue
            part = codes(column)
            if part is None:
                return None
            parts.append(part)
    return grouped(parts, n)


def _of_groups(plan: Plan, rows: ViewRows, groups: Groups) -> dict[str, Values]:
    """A view's columns that transforms read, one value for each group."""
    columns = {}
    for name in plan.read.get(id(rows.view), ()):
        column = rows.unique_columns[name]
        if len(rows.unique_present) > 1 or rows.inverse is not None:
            where = groups.first if rows.inverse is None else rows.inverse[groups.first]
            column = taken(column, where)
        columns[name] = column
    return columns


def dumps(value: Any) -> bytes:
    """Write JSON: numpy values as numbers, bytes as base64, sets as lists."""
    return orjson.dumps(value, default=_json_default, option=OPTIONS)


def tokens(column: Values, n: int) -> list[bytes]:
    """Each value of a column as JSON; numbers are written together and split."""
    if len(column) == 1 and n != 1:
        return [dumps(column[0])] * n
    if isinstance(column, np.ndarray) and column.dtype != object:
        return orjson.dumps(np.ascontiguousarray(column), option=OPTIONS)[1:-1].split(b",")
    if isinstance(column, Coded):
        known = {code: dumps(column.values[code]) for code in set(column.codes.tolist())}
        return [known[code] for code in column.codes.tolist()]
    return [dumps(value) for value in column]


def text_tokens(texts: Sequence[str]) -> list[bytes]:
    """Texts as JSON: written together and split between them, unless one has to be escaped."""
    whole = dumps(texts)[1:-1]
    if b"\\" in whole:
        return [dumps(text) for text in texts]
    return whole.replace(b'","', b'"\0"').split(b"\0")


def objects(
    columns: Mapping[str, Values], n: int, before: bytes = b"", after: bytes = b""
) -> list[bytes]:
    """Each row as a JSON object, with text before and after it."""
    if not columns:
        return [before + b"{}" + after] * n
    text = b"{" + b",".join(_quoted(name) + b":%b" for name in columns) + b"}"
    text = before.replace(b"%", b"%%") + text + after.replace(b"%", b"%%")
    places = [tokens(column, n) for column in columns.values()]
    return [text % row for row in zip(*places, strict=True)]


def id_values(ids: EntityIds) -> Values:
    """The ids as they came, of one type: in columns all are texts where some are."""
    if ids.plain or ids.numbers is None:
        return ids.values
    return [str(value) for value in ids.values]


def ranked_rows(
    served: FeatureRows,
    ids: EntityIds,
    item: tuple[str, ...],
    pair: Container[tuple[str, ...]],
    names: ReplyNames,
) -> list[bytes]:
    """The items of a ranking as fragments of a JSON array, in the order of ``ids``.

    ``item``: the join keys of what stands under ``names.item_features``; ``pair``: of what stands,
    with the transforms' features, under ``names.pair_features``.
    """
    n = len(ids)
    if not n:
        return [b"[]"]
    first = _cached_item_fragments(served, ids, item, names)
    columns: dict[str, Values] = {}
    groups = served.groups
    for rows in served.rows:
        if rows.view.join_keys in pair:
            held = rows.columns if groups is None else _pairs_of_groups(rows, groups)
            for name, feature in zip(rows.view.names, rows.view.features, strict=True):
                columns[name] = held[feature]
    columns |= served.transformed_groups
    second = objects(columns, n if groups is None else len(groups.first), after=b"},")
    pieces = [b"["] * (2 * n + 1)
    pieces[1::2] = first
    pieces[2::2] = (
        second if groups is None else list(map(second.__getitem__, groups.inverse.tolist()))
    )
    pieces[-1] = pieces[-1][:-1] + b"]"
    return pieces


def _pairs_of_groups(rows: ViewRows, groups: Groups) -> dict[str, Values]:
    where = groups.first if rows.inverse is None else rows.inverse[groups.first]
    return {name: taken(column, where) for name, column in rows.unique_columns.items()}


def _cached_item_fragments(
    served: FeatureRows, ids: EntityIds, item: tuple[str, ...], names: ReplyNames
) -> list[bytes]:
    """Each item's JSON fragment; cached for rows of the near cache until they change."""
    views = [rows for rows in served.rows if rows.view.join_keys == item]
    cache = views[0].cache if views else None
    # An id in another form than its fragment's is echoed as it came.
    if (
        cache is None
        or not ids.plain
        or any(rows.cache is not cache or rows.view.decoder.ttl for rows in views)
    ):
        return _item_fragments(served, ids, item, len(ids), names)
    held = cache.texts(served.plan, names)
    slots: Any = views[0].slots
    found = list(map(held.__getitem__, slots.tolist()))
    if None not in found:
        return found  # type: ignore[return-value] # none is None
    fragments = _item_fragments(served, ids, item, len(ids), names)
    kept = size = 0
    for slot, text in zip(slots.tolist(), fragments, strict=True):
        if slot and held[slot] is None:  # slot 0 is of many ids
            held[slot] = text
            kept += 1
            size += len(text)
    cache.count_fragments(kept, size)
    return fragments


def _item_fragments(
    served: FeatureRows, ids: EntityIds, item: tuple[str, ...], n: int, named: ReplyNames
) -> list[bytes]:
    columns = served.columns(item)
    if ids.numbers is None and isinstance(ids.values[0], str):
        identities = text_tokens(ids.values)
    else:
        plain = ids.numbers is not None and ids.plain
        identities = tokens(ids.numbers if plain else ids.values, n)  # type: ignore[arg-type]
    names = b",".join(_quoted(name) + b":%b" for name in columns)
    text = b"{%b:%%b,%b:{%b},%b:" % (
        _quoted(named.item), _quoted(named.item_features), names, _quoted(named.pair_features),
    )  # fmt: skip
    places = [identities, *[tokens(feature, n) for feature in columns.values()]]
    return [text % row for row in zip(*places, strict=True)]


def meta(
    served: FeatureRows, watermarks: Watermarks, now: int, near: NearCache | None = None
) -> dict[str, Any]:
    """Per view: version, as-of time, status, the definition's fingerprint, the cache used."""
    groups = {id(view): group for group in served.plan.groups for view in group.views}
    found: dict[str, dict[str, Any]] = {}
    for rows in served.rows:
        status = watermarks.statuses(rows.view, rows.present, rows.events, now)
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
        if near is not None and rows.view.near:
            found[rows.view.name]["near"] = near.state(groups[id(rows.view)], rows.cache)
    return found


def to_msgpack(value: Any) -> bytes:
    """Write msgpack of the same shape as the JSON."""
    data: bytes = msgpack.packb(value, default=_msgpack_default)
    return data


def to_arrow(columns: Mapping[str, Values], n: int, aside: Mapping[str, Any]) -> bytes:
    """Write an Arrow stream of one batch.

    Args:
        columns: by name, each of length 1 or ``n``.
        n: the number of rows.
        aside: what is the same for all rows; written as JSON into the schema's metadata.
    """
    arrays, names = [], []
    for name, column in columns.items():
        held = spread(column, n)
        arrays.append(pa.array(list(held) if isinstance(held, Coded) else held))
        names.append(name)
    batch = pa.RecordBatch.from_arrays(arrays, names=names)
    batch = batch.replace_schema_metadata({key: dumps(value) for key, value in aside.items()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _quoted(name: str) -> bytes:
    return dumps(name).replace(b"%", b"%%")


def _json_default(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, (set, frozenset, Coded)):
        return list(value)
    if isinstance(value, np.ndarray):  # orjson takes only those that lie in one piece
        return value.tolist()
    return str(value)


def _msgpack_default(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return _json_default(value)
