"""Whatever a CSV file holds: every row is counted once, and the store holds what was accepted."""

import csv
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from extensions.history import import_events
from tests.history.tables import count, empty

HEADER = ["event_id", "user_id", "item_id", "watched_at", "duration_s", "progress", "note"]

_dirt = st.sampled_from(
    ["", " ", "NaN", "nan", "null", "-1", "1e999", "99999999999999999999", "0x1", "1_000", "é",
     "\ufffd", "2025-13-01", "2025-03-01T00:00:00+99:99", "0", "0.5.5", "inf", "½", "١"]
)  # fmt: skip
_junk = _dirt | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8
)
_good = st.tuples(
    st.integers(0, 40).map(lambda n: f"event-{n}"),
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.integers(0, 9).map(str),
    st.sampled_from(["2025-03-01T10:00:00Z", "2024-02-29", "2025-03-30 02:30:00+02:00"]),
    st.floats(0, 86_400).map(repr),
    st.floats(0, 1).map(repr),
    _junk,
).map(list)


@st.composite
def _row(draw: st.DrawFn) -> list[str]:
    row = draw(_good)
    if draw(st.booleans()):
        row[draw(st.integers(0, len(row) - 1))] = draw(_junk)
    if draw(st.integers(0, 5)) == 0:
        return row[: draw(st.integers(1, 6))] if draw(st.booleans()) else [*row, "more"]
    return row


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=st.lists(_row(), max_size=12), twice=st.booleans())
@example(rows=[], twice=True)
@example(rows=[[""] * 7, ["a"], [""]], twice=False)
def test_counts_add_up(database: str, rows: list[list[str]], twice: bool) -> None:
    empty(database)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "e.csv")
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(HEADER)
            writer.writerows(rows)
        result = import_events(database, path)
        written = [row for row in rows if any(row) or row == [""]]  # only commas say nothing
        assert result.read == len(written)
        assert result.read == result.inserted + result.duplicates + result.rejected
        assert result.inserted == count(database) == count(database, "watch_event_ids")
        assert sum(result.reasons.values()) == result.rejected
        if result.rejected_path:
            with result.rejected_path.open(newline="", encoding="utf-8") as file:
                refused = list(csv.DictReader(file))
            assert len(refused) == result.rejected
            assert all(row["rejected_reason"] for row in refused)
        else:
            assert result.rejected == 0
        if twice:
            again = import_events(database, path)
            assert again.inserted == 0
            assert again.duplicates == result.inserted + result.duplicates
            assert again.rejected == result.rejected


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(octets=st.binary(max_size=200))
def test_any_bytes_are_counted_or_refused(database: str, octets: bytes) -> None:
    """Bytes after a good header: quotes left open, broken UTF-8, stray carriage returns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "e.csv")
        path.write_bytes(",".join(HEADER).encode() + b"\n" + octets)
        result = import_events(database, path)
    assert result.read == result.inserted + result.duplicates + result.rejected
