"""What a forked worker finds already imported: Feast takes seconds to import."""

from pathlib import Path

from extensions.asof import load_computations
from streaming import worker

REPO_ROOT = Path(__file__).resolve().parents[2]

# Feast walks through every file under the repository to find its definitions: two seconds.
COMPUTATIONS = load_computations(REPO_ROOT)
__all__ = ["COMPUTATIONS", "worker"]
