"""The list of a repository's files is Feast's own, for generated trees and ignore files."""

import os
import random
from pathlib import Path

import pytest
from feast import repo_operations

from extensions.stores.registry.repository_files import pruned

FOLDERS = ("a", "b", ".hidden", "old", "docs", ".venv", "__pycache__", ".ipynb_checkpoints", "x y")
FILES = ("views.py", "__init__.py", "notes.txt", ".hidden.py", "[odd].py", "A.py", "setup.pyc")
PATTERNS = (
    "a", "./b", "docs/", "**/old", "*/old", "old/*.py", "**/*.py", "views.py", "*.py", ".hidden*",
    "a/**", "**", "a/b/views.py", "[[]odd].py", "?", "none", "x y", "# a comment",
    "a  # and another", "**/a/**/views.py", "A.PY",
)  # fmt: skip


def tree(draw: random.Random, root: Path) -> None:
    folders = [root]
    for _ in range(draw.randrange(3, 14)):
        folder = draw.choice(folders) / draw.choice(FOLDERS)
        folder.mkdir(exist_ok=True)
        folders.append(folder)
    for folder in dict.fromkeys(folders):
        for name in draw.sample(FILES, draw.randrange(len(FILES))):
            (folder / name).write_text("")
    held = [path for path in root.rglob("*.py") if path.name != "__init__.py"]
    lines = draw.sample(PATTERNS, draw.randrange(5))
    # Links to files, folders and nothing; none where a pattern names the link itself: Feast then
    # ignores what it leads to as well.
    for number in range(0 if set(lines) & {"*.py", "**/*.py", "**"} else draw.randrange(3)):
        goal = draw.choice([*held, *folders, root / "gone.py"])
        (root / f"link{number}.py").symlink_to(goal)
    (root / ".feastignore").write_text("\n".join(lines))


@pytest.mark.parametrize("seed", range(100))
def test_generated_trees(tmp_path: Path, seed: int) -> None:
    root = tmp_path / "repo"
    root.mkdir()
    tree(random.Random(seed), root)
    expected = repo_operations.get_repo_files(root)
    assert pruned(lambda _: [])(root) == expected, (root / ".feastignore").read_text()


def test_what_leads_out_of_the_folder_is_left_to_feast(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "views.py").write_text("")
    (tmp_path / "repo" / ".feastignore").write_text("../repo/views.py")
    assert repo_operations.get_repo_files(tmp_path / "repo") == []
    assert pruned(repo_operations.get_repo_files)(tmp_path / "repo") == []


def test_an_ignored_folder_is_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".venv" / "lib").mkdir(parents=True)
    (tmp_path / "views.py").write_text("")
    seen: list[str] = []
    scan = os.scandir

    def scandir(path: str) -> object:
        seen.append(os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert pruned(lambda _: [])(tmp_path) == [tmp_path.resolve() / "views.py"]
    assert seen == [str(tmp_path.resolve())]
