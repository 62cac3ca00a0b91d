"""Repositories drawn by lot go through every path, each in a process of its own.

``SKEWLESS_SEED`` chooses the first one, ``EXAMPLES`` how many there are.
"""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.generated.drawing import computation_of, draw, python_of, sql_of

ROOT = Path(__file__).resolve().parents[2]
FIRST = int(os.environ.get("SKEWLESS_SEED", "1"))
EXAMPLES = int(os.environ.get("EXAMPLES", "1"))


def write(folder: Path, seed: int) -> None:
    platforms = draw(Random(seed))
    for room in ("history", "computations"):
        (folder / "feature_repo" / room).mkdir(parents=True)
    template = ROOT / "extensions/templates/common/feature_store.yaml"
    (folder / "feature_store.yaml").write_text(
        template.read_text().replace("@PROJECT@", f"drawn{seed}")
    )
    for name, text in python_of(platforms).items():
        (folder / "feature_repo" / name).write_text(text)
    for number, each in enumerate(platforms):
        repo = folder / "feature_repo"
        (repo / "history" / f"{number:04}.{each.name}.sql").write_text(sql_of(each))
        text = computation_of(each)
        (repo / "computations" / f"{each.name}_view.v1.sql").write_text(text)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + EXAMPLES))
def test_a_platform_drawn_by_lot(tmp_path: Path, seed: int) -> None:
    write(tmp_path / "drawn", seed)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "--show-capture=no", "-p", "no:cacheprovider",
         "tests/generated/round_trip_suite.py"],
        cwd=ROOT,
        env=os.environ
        | {"SKEWLESS_TESTED_REPOSITORY": str(tmp_path / "drawn"),
           "SKEWLESS_REPO": str(tmp_path / "drawn"), "SKEWLESS_SEED": str(seed)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"seed {seed}: " + done.stdout[-6000:] + done.stderr[-2000:]
