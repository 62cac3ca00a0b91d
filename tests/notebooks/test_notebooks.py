"""The tutorial notebook runs from top to bottom, shows what it says, and is kept without output."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.versions.conftest import World

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# Of one cell: the first one imports Feast. On two free cores the whole notebook takes 40 s.
CELL_SECONDS = 120


def test_there_is_a_tutorial() -> None:
    assert [path.name for path in NOTEBOOKS] == ["first_features.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_not_kept(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs"), cell.source
        assert cell.get("execution_count") is None, cell.source


def test_the_tutorial_runs_and_shows_what_it_says(world: World) -> None:
    folder = world.root / "notebooks"
    folder.mkdir()
    path = Path(shutil.copy(FOLDER / "first_features.ipynb", folder))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=CELL_SECONDS, resources={"metadata": {"path": str(folder)}}
    ).execute()
    shown = [
        "\n".join(
            str(output.get("text", "")) + "".join(output.get("data", {}).values())
            for output in cell.outputs
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    text = "\n".join(shown)
    for part in (
        "recommendations",  # owner
        "count(*)",  # the SQL of a view
        "Point-in-time retrieval, not run yet",
        "user_watch_count_7d",
        "Training set of ranking: 400 rows",
        "SHA-256 of the values",
        "item_profile:item_genre",  # the baseline
        "active",  # versions
    ):
        assert part in text
