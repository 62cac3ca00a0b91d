"""The quick ways of reading a CSV say what the thorough ones say."""

from datetime import UTC, datetime
from io import BytesIO
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from extensions.history.csv_records import RecordReader, _Grammar
from extensions.history.import_rules import to_micros
from extensions.history.time_conversion import Times

FIRST, LAST = (to_micros(datetime(year, 1, 1, tzinfo=UTC)) for year in (1900, 2100))


def blocks(data: bytes, delimiter: str) -> list[tuple[object, ...]]:
    reader = RecordReader(BytesIO(data), delimiter, "a file", block_bytes=16)
    header = reader.header()
    found = reader.blocks(len(header))
    return [(b.data, b.records, b.quoted, b.unsplit, b.repaired) for b in found]


@pytest.mark.parametrize("delimiter", [",", "|", "::"])
@given(text=st.text(alphabet='a"\r\n,|:', max_size=40))
@example(text='"a","a"\n"a",a\n')
@example(text='"a"\r\n')
@example(text='""\n')
@example(text='a"a"\n')
@example(text='"a\na","a"\n')
@example(text='"a\n"a"\na"\n')
@example(text='"a,"a"\n')
@example(text='"a""a"\n')
def test_blocks(text: str, delimiter: str) -> None:
    data = b"x,y\n".replace(b",", delimiter.encode()) + text.encode()
    quick = blocks(data, delimiter)
    with patch.object(_Grammar, "plainly_quoted", return_value=False):
        assert quick == blocks(data, delimiter)


def test_most_files_are_plainly_quoted() -> None:
    grammar = _Grammar(b",")
    assert grammar.plainly_quoted(b'"a","b"\r\n1,"c,d"\r\n"",2\r\n')
    for odd in (b'"a""b"\n', b'a"b"\n', b'"a"b\n', b'"a\nb"\n', b'"a"', b'"a\n', b'a"\nb"\n'):
        assert not grammar.plainly_quoted(odd)


WRITTEN = st.tuples(
    st.sampled_from(["2024-02-29", "2023-02-29", "1999-12-31", "1899-01-01", "2024-13-01"]),
    st.sampled_from(["", "T", " "]),
    st.sampled_from(["", "12:30", "12:30:59", "23:59:60", "24:00:00", "00:00:00"]),
    st.sampled_from(["", ".1", ".123456", ".1234567", ".", ",5"]),
    st.sampled_from(["", "Z", "+02:00", " UTC", "z"]),
).map("".join)


@given(texts=st.lists(WRITTEN, min_size=1, max_size=3))
@example(texts=["2024-02-29T12:30:59.123456Z"])
@example(texts=["2024-02-29 12:30:59", "1999-12-31 00:00:00.1"])
def test_times(texts: list[str]) -> None:
    column = pa.array(texts)
    quick, thorough = (Times("at", low_us=FIRST, high_us=LAST) for _ in range(2))
    parsed = quick.parse(column)
    with patch.object(Times, "_from_usual", return_value=None):
        expected = thorough.parse(column)
    bad = [mask.any() for mask, _ in expected.problems]
    assert [(m.tolist(), said) for m, said in parsed.problems] == [
        (m.tolist(), said) for m, said in expected.problems
    ]
    if not any(bad):
        assert parsed.values.tolist() == expected.values.tolist()
    assert quick.notes() == thorough.notes()
