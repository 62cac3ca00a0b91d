"""Copies of the repository whose files name other versions, as docs/versions.md has it."""

import contextlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from extensions.versions.declared_definitions import forget_modules

REPO_ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = REPO_ROOT / "docs" / "examples" / "versions"


class Repository:
    """A folder with ``feature_store.yaml`` and ``feature_repo``, to be edited and applied."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def copy(cls, root: Path, source: Path = REPO_ROOT) -> "Repository":
        shutil.copytree(
            source / "feature_repo",
            root / "feature_repo",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        for name in ("feature_store.yaml", ".feastignore"):
            shutil.copy(source / name, root / name)
        return cls(root)

    def path(self, name: str) -> Path:
        return self.root / "feature_repo" / name

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace the one place where ``old`` stands."""
        path = self.path(name)
        text = path.read_text()
        assert text.count(old) == 1, (name, old, text.count(old))
        path.write_text(text.replace(old, new))

    def second_version(self, view: str) -> None:
        """The example of the documentation: its SQL, and the two lines that name the version."""
        name = f"{view}.v2.sql"
        shutil.copy(EXAMPLES / name, self.path(f"computations/{name}"))
        self.name_version(view, 2)

    def name_version(self, view: str, version: int) -> None:
        """What the files say about which version they define."""
        path = self.path("views.py")
        text, n = re.subn(
            rf'(name="{view}",\n    version=)"v\d+"', rf'\1"v{version}"', path.read_text()
        )
        assert n == 1
        path.write_text(text)
        path = self.path("sources.py")
        text, n = re.subn(rf'log\("{view}", \d+\)', f'log("{view}", {version})', path.read_text())
        assert n == 1
        path.write_text(text)

    @contextlib.contextmanager
    def current(self) -> Iterator[Path]:
        """This folder's files are the ones that are imported."""
        forget_modules()
        sys.path.insert(0, str(self.root))
        try:
            with contextlib.chdir(self.root):
                yield self.root
        finally:
            sys.path.remove(str(self.root))
            forget_modules()
