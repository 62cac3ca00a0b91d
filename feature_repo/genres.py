"""Where each genre lies in the embedding space (seeds/genres.json), for transforms."""

import json
from pathlib import Path

import numpy as np

NOWHERE = np.zeros(32, dtype=np.float32)
_SEEDS = Path(__file__).parent / "seeds" / "genres.json"
PLACES = {
    row["genre"]: np.array(row["embedding"], dtype=np.float32)
    for row in json.loads(_SEEDS.read_text())
}
# The same as a table: row `ROWS[genre]`, and row 0 for a genre that is not known.
TABLE = np.stack([NOWHERE, *PLACES.values()])
ROWS = {genre: row for row, genre in enumerate(PLACES, start=1)}
LENGTHS = np.linalg.norm(TABLE, axis=1)
