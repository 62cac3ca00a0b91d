"""A part of the kill matrix, enough to notice when a command no longer survives a kill."""

from pathlib import Path

import pytest

from tests.faults.kill_matrix import Cell, kill_matrix

CELLS = [
    Cell("refresh", "postgres"),
    Cell("refresh --full", "program"),
    Cell("import", "program"),
    Cell("backfill", "postgres"),
    Cell("materialize", "redis"),
    Cell("rebuild-online", "program"),
    Cell("training-set", "postgres"),
]


@pytest.mark.timeout(600)
def test_a_kill_in_the_midst_of_a_command_is_made_good_by_the_next_one(tmp_path: Path) -> None:
    with kill_matrix(tmp_path, seed=11) as matrix:
        results = [matrix.run(cell) for cell in CELLS]
    # Kills that came after the command had ended would show nothing.
    assert sum(result.hit for result in results) > len(CELLS) / 2, results
