"""Figures of the fault suite: printed, and written where ``FAULTS_JSON`` names a file."""

import json
import os
from pathlib import Path
from typing import Any

VARIABLE = "FAULTS_JSON"


def record(what: str, **figures: Any) -> None:
    """Print one line of figures, and append it to the file as JSON."""
    print(f"\n{what}: {figures}")  # noqa: T201
    if name := os.environ.get(VARIABLE):
        with Path(name).open("a") as file:
            file.write(json.dumps({"what": what, **figures}, default=str) + "\n")
