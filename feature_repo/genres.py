"""Where each genre lies in the embedding space (genres.json), for transforms."""

import json
from pathlib import Path

import numpy as np

NOWHERE = np.zeros(32, dtype=np.float32)
PLACES = {
    genre: np.array(place, dtype=np.float32)
    for genre, place in json.loads((Path(__file__).parent / "genres.json").read_text()).items()
}
# The same as a table: row `ROWS[genre]`, and row 0 for a genre that is not known.
TABLE = np.stack([NOWHERE, *PLACES.values()])
ROWS = {genre: row for row, genre in enumerate(PLACES, start=1)}
LENGTHS = np.linalg.norm(TABLE, axis=1)
