"""Many rows at once are what each row is alone; what is cut short or foreign is missing."""

import random
from typing import Any

import numpy as np
from feast import ValueType
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.stores.online_codec import row_format as rows
from extensions.stores.online_codec.column_format import AnotherLayoutError, Column
from extensions.stores.online_codec.row_decoder import Block, Decoder
from extensions.stores.online_codec.row_format import Layout
from extensions.stores.online_codec.section_index import fields, sections
from tests.online.views import TYPES, value_of, view

MOMENTS = st.integers(-(2**57), 2**57) | st.integers(0, 2**51)
NUMBERS = [ValueType.INT64, ValueType.FLOAT, ValueType.BOOL, ValueType.DOUBLE, ValueType.INT32]
BROAD = settings(max_examples=150, deadline=None)


@st.composite
def packed(draw: Any, types: list[ValueType] = TYPES) -> tuple[Layout, list[bytes], int]:
    """A layout, its rows as they may come, and how often what came is nothing of its own."""
    drawn = draw(st.lists(st.sampled_from(types), min_size=1, max_size=5))
    kinds = {f"f{i}": kind for i, kind in enumerate(drawn)}
    layout = Layout.of(view("decoded", kinds), versioning=True)
    alike, nulls = draw(st.booleans()), draw(st.booleans())
    held: list[bytes] = []
    for _ in range(draw(st.integers(0, 12))):
        values = {
            name: draw(value_of(kind))
            for name, kind in kinds.items()
            if not nulls or draw(st.booleans())
        }
        event = draw(MOMENTS)
        held.append(layout.pack(values, event, event if alike else draw(st.none() | MOMENTS)))
    damage = random.Random(draw(st.integers(0, 10**6)))
    for i in range(len(held)):
        if not alike and damage.random() < 0.3:
            held[i] = damage.choice(
                [b"", held[i][: damage.randrange(len(held[i]))], held[i] + b"x", b"?" + held[i][1:]]
            )
    return layout, held, sum(1 for one in held if one and alone(layout, one) is None)


def alone(layout: Layout, row: bytes) -> tuple[dict[str, Any], int] | None:
    """A row by the code that reads one at a time for Feast."""
    try:
        values = layout.unpack(row)
        event = layout.times(row)[0]
    except (AnotherLayoutError, IndexError):
        return None
    return {column.name: content(column, values[column.name]) for column in layout.columns}, event


def content(column: Column, value: Value) -> Any:
    """What the layout holds of a value: timestamps as numbers, others as Feast's own Python."""
    kind = value.WhichOneof("val")
    if kind is None:
        return None
    if column.kind == "proto":
        return feast_value_type_to_python_type(value, column.value_type)
    held = getattr(value, kind)
    return list(held.val) if column.kind == "array" else held


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return "nan" if isinstance(value, float) and value != value else value


def check(layout: Layout, block: Block, held: list[bytes], missing: Any) -> None:
    assert len(block.present) == len(held)
    for i, row in enumerate(held):
        known = alone(layout, row) if row else None
        assert bool(block.present[i]) == (known is not None)
        assert block.events[i] == (known[1] if known else 0)
        for name, column in block.columns.items():
            assert plain(column[i]) == (plain(known[0][name]) if known else missing)


@BROAD
@given(case=packed())
def test_rows_together_are_what_each_is_alone(case: tuple[Layout, list[bytes], int]) -> None:
    layout, held, foreign = case
    rows.refused.clear()
    block = Decoder(layout, dict.fromkeys(layout.names)).block(*fields(held), 0)
    assert rows.refused[layout.view] == foreign
    check(layout, block, held, None)


@BROAD
@given(case=packed(NUMBERS))
def test_rows_of_one_form_are_what_each_is_alone(case: tuple[Layout, list[bytes], int]) -> None:
    layout, held, _ = case
    block = Decoder(layout, dict.fromkeys(layout.names, 0)).alike(held)
    if block is None:
        flags = {(len(one), one[:3]) for one in held}
        one_form = len(flags) == 1 and all(alone(layout, one) for one in held)
        assert not one_form or held[0][2] & (rows.HAS_NULLS | rows.AS_PROTOS)
    else:
        check(layout, block, [b"", *held], 0)
    if held:
        assert Decoder(layout, dict.fromkeys(layout.names)).alike(held) is None


@BROAD
@given(
    others=st.lists(st.lists(st.sampled_from("abc"), max_size=3, unique=True), max_size=6),
    one=packed(),
    cut=st.none() | st.integers(0, 400),
)
def test_sections_are_found_where_one_at_a_time_finds_them(
    others: list[list[str]], one: tuple[Layout, list[bytes], int], cut: int | None
) -> None:
    layout, held, _ = one
    layouts = {name: Layout.of(view(name), versioning=True) for name in "abc"}
    values: list[bytes | None] = []
    for i, names in enumerate(others):
        parts = [layouts[name].header(3) + name.encode() * 3 for name in names]
        if i < len(held):
            parts.insert(len(parts) // 2, layout.header(len(held[i])) + held[i])
        values.append(b"".join(parts) or None)
    if cut is not None and values and values[-1]:
        values[-1] = values[-1][:cut] or None
    asked = [layout, layouts["a"], layouts["b"]]
    buffer, places = sections(values, asked)
    for mine, (at, size) in zip(asked, places, strict=True):
        for value, start, length in zip(values, at.tolist(), size.tolist(), strict=True):
            expected = mine.find(value) if value else None
            assert buffer[start : start + length] == (expected or b"")
