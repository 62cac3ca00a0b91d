"""The media repository with text ids: a copy in which users and items are named by texts."""

import re
import shutil
from pathlib import Path

# What is replaced in which files; each must be there.
CHANGES = (
    ("feature_repo/entities.py", r"value_type=ValueType\.INT64", "value_type=ValueType.STRING"),
    ("feature_repo/history/*.sql", r"(user_id|item_id) bigint", r'\1 text COLLATE "C"'),
)


def copy_with_text_ids(repository: Path, folder: Path) -> Path:
    """Copy a repository to ``folder``: its entities are texts, and so are its tables' columns."""
    shutil.copytree(
        repository / "feature_repo",
        folder / "feature_repo",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for name in ("feature_store.yaml", ".feastignore"):
        shutil.copy(repository / name, folder / name)
    for pattern, old, new in CHANGES:
        changed = 0
        for file in folder.glob(pattern):
            text, count = re.subn(old, new, file.read_text())
            file.write_text(text)
            changed += count
        assert changed, pattern
    return folder
