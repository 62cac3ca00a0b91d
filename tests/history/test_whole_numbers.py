"""Whole numbers beyond 2**53 from any form of file: exact, or a rejected row."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extensions.history.file_import import ImportOptions, import_file
from tests.history.declared import declare
from tests.history.tables import fetch

TABLE = "CREATE TABLE counted (who text NOT NULL, n bigint, at timestamptz NOT NULL)"
AT = "2026-03-01T12:00:00Z"
BIG = 2**53 + 1
# Written, and what it is; None: no whole number that is known.
DECIMALS: list[tuple[Any, int | None]] = [
    (Decimal(BIG), BIG), (Decimal(2**63 - 1), 2**63 - 1), (Decimal(-(2**63)), -(2**63)),
    (Decimal("7.50"), None), (Decimal("7.00"), 7), (Decimal(2**63), None), (Decimal(0), 0),
]  # fmt: skip
FLOATS: list[tuple[Any, int | None]] = [(float(BIG), None), (2.0**53 - 1, 2**53 - 1), (-7.0, -7)]
WHOLE: list[tuple[Any, int | None]] = [(BIG, BIG), (-(2**63), -(2**63))]


@pytest.mark.parametrize(
    ("form", "rows"),
    [
        ("parquet", DECIMALS), ("parquet", FLOATS), ("parquet", WHOLE),
        ("jsonl", [(2.0**53, 2**53)]), ("jsonl", WHOLE), ("csv", WHOLE), ("csv", DECIMALS[:5]),
    ],
)  # fmt: skip
def test_a_whole_number_is_exact_or_rejected(
    fresh_database: str, tmp_path: Path, form: str, rows: list[tuple[Any, int | None]]
) -> None:
    table = declare(fresh_database, TABLE, time="at", keys="who")
    path = tmp_path / f"counted.{form}"
    who = [str(number) for number in range(len(rows))]
    written = [value for value, _ in rows]
    if form == "parquet":
        held = pa.array(written, pa.decimal128(22, 2) if rows is DECIMALS else None)
        pq.write_table(pa.table({"who": who, "n": held, "at": [AT] * len(rows)}), path)
    elif form == "jsonl":
        lines = [
            json.dumps({"who": w, "n": n, "at": AT}) for w, n in zip(who, written, strict=True)
        ]
        path.write_text("\n".join(lines))
    else:
        path.write_text(
            "who,n,at\n" + "".join(f"{w},{n},{AT}\n" for w, n in zip(who, written, strict=True))
        )
    result = import_file(fresh_database, table, path, ImportOptions())
    stored = dict(fetch(fresh_database, "SELECT who, n FROM counted"))
    assert stored == {w: n for w, (_, n) in zip(who, rows, strict=True) if n is not None}
    assert result.rejected == len(rows) - len(stored)
