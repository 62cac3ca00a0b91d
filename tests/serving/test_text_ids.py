"""The media repository with text ids serves exactly what is published.

A copy of the repository turns to texts by the value type of its entities and its tables' columns;
`text_ids_suite` runs over it in a process of its own, and compares its replies' shapes with those
that whole numbers get here.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.serving.text_ids_suite import SHAPES, published, shape
from tests.text_ids import copy_with_text_ids


def test_the_repository_with_text_ids(http: httpx.Client, repo_root: Path, tmp_path: Path) -> None:
    folder = copy_with_text_ids(repo_root, tmp_path / "repository")
    shapes: dict[str, Any] = {}
    for name, reply in published(http, 3, [7, 1, 7, 900]).items():
        shapes[name] = shape(reply)
    (tmp_path / "shapes.json").write_text(json.dumps(shapes))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         "tests/serving/text_ids_suite.py"],
        cwd=repo_root,
        env={**os.environ, "SKEWLESS_TESTED_REPOSITORY": str(folder),
             SHAPES: str(tmp_path / "shapes.json")},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    assert re.search(r"^\d+ passed", done.stdout.splitlines()[-1]), done.stdout[-2_000:]
