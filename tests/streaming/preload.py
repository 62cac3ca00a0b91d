"""What a forked worker finds already imported: Feast takes seconds to import."""

import os
from pathlib import Path

from extensions.asof import load_computations
from streaming import worker

# The repository that is tested, as `tests.conftest` finds it.
_OTHER = os.environ.get("SKEWLESS_TESTED_REPOSITORY")
REPO_ROOT = Path(_OTHER) if _OTHER else Path(__file__).resolve().parents[2]

# Feast walks through every file under the repository to find its definitions: two seconds.
COMPUTATIONS = load_computations(REPO_ROOT)
__all__ = ["COMPUTATIONS", "worker"]
