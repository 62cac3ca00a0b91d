"""Whatever a CSV file holds: every row is counted once, and the store holds what was accepted."""

import csv
import io
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.history.tables import count, empty, fetch, import_events

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
        assert result.inserted == count(database) == count(database, "watch_events_ids")
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
            assert again.duplicates + again.rejected == result.read
            # What breaks a rule and has an id that is stored by now is a duplicate.
            assert again.duplicates >= result.inserted + result.duplicates


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


# No digits: a value with a line that is a row of the file by itself is nobody's to tell.
_text = st.text(
    st.sampled_from(["a", "é", " ", ",", ";", '"', "'", "\n", "\r", "z", "\t"]), max_size=10
)
# What a hand, or a program that knows no quotation, does to a row's last value; no line ends.
_marks = st.sampled_from(
    ['"open', 'shut"', '"', '"both" more', 'in"side', '""', '"""', '"a""b', '"a" "b"', '" ', ' "']
)  # fmt: skip


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    rows=st.lists(st.tuples(st.sampled_from(["well", "raw", "bad", "raw and bad"]), _text, _marks),
                  min_size=1, max_size=12),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    final=st.booleans(),
)  # fmt: skip
@example([("raw", "", '"'), ("raw and bad", "", '"'), ("well", "\n", "")], ",", "\n", 0, True)
def test_every_row_of_a_hostile_file_is_stored_or_refused(
    database: str,
    rows: list[tuple[str, str, str]],
    delimiter: str,
    end: str,
    quoting: int,
    final: bool,
) -> None:
    """Each row has a user and a kind of its own: well written or raw, with a bad time or not.

    What becomes of a row follows from its own kind, whatever its neighbours do.
    """
    lines = [delimiter.join(["user_id", "item_id", "watched_at", "title"])]
    for user, (kind, text, mark) in enumerate(rows):
        at = "never" if "bad" in kind else "2025-03-01"
        if "raw" in kind:
            lines.append(delimiter.join([str(user), "7", at, mark]))
            continue
        out = io.StringIO(newline="")
        writer = csv.writer(out, delimiter=delimiter, lineterminator="\r\n", quoting=quoting)
        writer.writerow([user, 7, at, text])
        lines.append(out.getvalue().removesuffix("\r\n"))
    empty(database)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "e.csv")
        path.write_bytes((end.join(lines) + end * final).encode())
        result = import_events(database, path, delimiter=delimiter)
        assert result.read == len(rows)
        assert result.read == result.inserted + result.duplicates + result.rejected
        bad = {user for user, (kind, *_) in enumerate(rows) if "bad" in kind}
        stored = sorted(row[0] for row in fetch(database, "SELECT user_id FROM watch_events"))
        assert stored == sorted(set(range(len(rows))) - bad)
        if bad:
            assert result.rejected_path is not None
            with result.rejected_path.open(newline="", encoding="utf-8") as file:
                refused = list(csv.DictReader(file))
            assert sorted(int(row["user_id"]) for row in refused) == sorted(bad)
            titles = {int(row["user_id"]): row["title"] for row in refused}
            for user in bad:
                kind, text, mark = rows[user]
                assert titles[user] == (_unquoted(mark) if "raw" in kind else text)


def _unquoted(mark: str) -> str:
    """What a mark reads as: the two that are well-formed are values, the others text."""
    return {'""': "", '"""': '"""'}.get(mark, mark)
