"""The whole kill matrix, run by `make test-faults`: every command, every victim, several times.

``SKEWLESS_SEED`` replays a run; ``SKEWLESS_ROUNDS`` changes how often each cell is run (3).
"""

import os
import random
from pathlib import Path

import pytest

from tests.faults.kill_matrix import VICTIMS, Cell, kill_matrix


@pytest.mark.timeout(3600)
def test_the_whole_kill_matrix(tmp_path: Path) -> None:
    seed = int(os.environ.get("SKEWLESS_SEED", random.randrange(1_000_000)))
    rounds = int(os.environ.get("SKEWLESS_ROUNDS", "3"))
    print(f"kill matrix: seed {seed}, {rounds} rounds")  # noqa: T201
    results = []
    with kill_matrix(tmp_path, seed) as matrix:
        for _ in range(rounds):
            for operation in matrix.operations:
                for victim in VICTIMS:
                    results.append(matrix.run(Cell(operation, victim)))
                    print(results[-1], flush=True)  # noqa: T201
    hit = sum(result.hit for result in results)
    print(f"{len(results)} kills, {hit} of them while the command ran")  # noqa: T201
    assert hit > len(results) / 2
