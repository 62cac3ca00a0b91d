"""`skewless init`: a new repository's folder, made from a template.

Templates are the folders in ``templates/``, beside this file and in the wheel. What all have in
common (feature_store.yaml, README.md, the ignore files) is in ``templates/common``; a template's
own file of that name is taken instead.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from extensions.errors import InputError
from extensions.suggestions import did_you_mean

_FOLDER = Path(__file__).parent / "templates"
_COMMON = _FOLDER / "common"


@dataclass(frozen=True)
class Template:
    """A folder in ``templates/``, and what `skewless init --help` and README.md say of it."""

    folder: str
    about: str


# A template is a line here, and a folder (or a link to one in the checkout) in templates/.
TEMPLATES = {
    "minimal": Template("minimal", "one table, one stream, one view, one service, to be edited"),
    "media": Template("media", "watch events, six views, a ranking, a simulator"),
    "shop": Template("shop", "page views, orders and a catalogue: three formats, eight views"),
}

# Written in the templates where the project's name, or the template's description, comes.
_PROJECT, _ABOUT = "@PROJECT@", "@ABOUT@"
# Files whose names begin with a dot have none here, where they would take effect.
_DOTTED = {"feastignore": ".feastignore", "gitignore": ".gitignore"}
# What a folder may hold before it is a repository.
_TOLERATED = frozenset({".git", ".venv"})
# Feast's own definition, when the template names its project.
_PROJECT_OBJECT = re.compile(r'(\bProject\(\s*name=)"[^"]*"')
# Feast's `is_valid_name`, less the hyphen, which Feast 0.67 refuses in a feature_store.yaml
# whatever its online store is (it takes SQLite's tables for granted).
_VALID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")
_LONGEST = 63


@dataclass(frozen=True)
class NewRepository:
    """What `init` made: paths of ``files`` are relative to ``folder``."""

    folder: Path
    project: str
    template: str
    files: tuple[str, ...]


def make_repository(folder: Path, template: str, project: str | None) -> NewRepository:
    """Write a template's files into ``folder``, which is made; nothing is overwritten.

    Args:
        folder: New or empty; it may hold .git and .venv.
        template: A name in `TEMPLATES`.
        project: The project's name; where None the folder's, with _ for -.

    Raises:
        InputError: the folder holds something, or a name cannot be used.
    """
    if template not in TEMPLATES:
        raise InputError(
            f"There is no template {template}: there are {', '.join(TEMPLATES)}."
            f"{did_you_mean(template, TEMPLATES)}"
        )
    folder = folder.absolute()
    if folder.exists():
        if not folder.is_dir():
            raise InputError(f"{folder} is a file: name a new folder.")
        held = sorted(path.name for path in folder.iterdir() if path.name not in _TOLERATED)
        if held:
            raise InputError(
                f"{folder} is not empty (it has {', '.join(held[:3])}{', …' if held[3:] else ''}): "
                "name a new folder; nothing was written."
            )
    name = _project_name(folder, project)
    files = dict(_files(_COMMON)) | dict(_files(_FOLDER / TEMPLATES[template].folder))
    for relative, source in sorted(files.items()):
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text(encoding="utf-8")
        text = text.replace(_PROJECT, name).replace(_ABOUT, TEMPLATES[template].about)
        path.write_text(_PROJECT_OBJECT.sub(rf'\1"{name}"', text), encoding="utf-8")
    return NewRepository(folder, name, template, tuple(sorted(files)))


def _project_name(folder: Path, project: str | None) -> str:
    name = folder.resolve().name.replace("-", "_") if project is None else project
    if _VALID.fullmatch(name) and len(name) <= _LONGEST:
        return name
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower().encode("ascii", "ignore").decode()).strip("_")
    raise InputError(
        f"{name!r} cannot be a project's name, which has letters, digits and _ and begins with a "
        f"letter or digit: give one with --project{f' {plain[:_LONGEST]}' if plain else ''}."
    )


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files of a template by their paths in a repository."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = Path(parent, name)
            yield str(path.relative_to(folder).with_name(_DOTTED.get(name, name))), path
