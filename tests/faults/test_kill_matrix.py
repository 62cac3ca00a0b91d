"""A part of the kill matrix, enough to notice when a command no longer survives a kill."""

from pathlib import Path

import pytest

from tests.faults.kill_matrix import kill_matrix
from tests.faults.operation import Cell

CELLS = [
    Cell("refresh", "postgres"),
    Cell("refresh --full", "program"),
    Cell("import", "program"),
    Cell("backfill", "postgres"),
    Cell("materialize", "redis"),
    Cell("rebuild-online", "program"),
    Cell("training-set", "postgres"),
    # At failpoints nothing is left to chance, and no undisturbed run is needed to time the kill.
    Cell("apply", "postgres", "apply-ticked"),
    Cell("promote", "program", "move-noted"),
    Cell("rollback", "postgres", "move-feast-written"),
    Cell("drift check", "program", "rollback-done"),
    Cell("retire", "program", "retire-online-removed"),
]


@pytest.mark.timeout(900)
def test_a_kill_in_the_midst_of_a_command_is_made_good_by_the_next_one(tmp_path: Path) -> None:
    with kill_matrix(tmp_path, seed=11) as matrix:
        results = [matrix.run(cell) for cell in CELLS]
    # Kills that came after the command had ended would show nothing.
    assert sum(result.hit for result in results) > len(CELLS) / 2, results
