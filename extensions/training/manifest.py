"""Manifest of a training set: its inputs and versions, so that it can be reproduced."""

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from extensions.errors import InputError
from extensions.timestamps import parse_timestamp
from extensions.training.manifest_html import manifest_html

FORMAT = 1


@dataclass(frozen=True)
class Column:
    """One column; ``default_rate``: share of rows with the declared default, None without one."""

    name: str
    type: str
    null_rate: float
    default_rate: float | None


@dataclass(frozen=True)
class ViewUsed:
    """One version of a view: its log, the share of its labels for which the log had no row.

    A view without a version in the service has an entry for each version that was served at the
    moment of some label. ``table`` None: that version's log is gone, and its values are null.
    ``labels``: how many got this version; None in manifests of before versions were told apart.
    ``refused``: how many of these are of entities whose values then could not be computed.
    """

    view: str
    version: int
    table: str | None
    default_rate: float
    labels: int | None = None
    refused: int = 0


@dataclass(frozen=True)
class TransformUsed:
    """One version of a transform (None: it names none), and how many labels got it."""

    transform: str
    version: int | None
    labels: int


@dataclass(frozen=True)
class LabelsUsed:
    """Where the labels came from: a file (relative to the manifest) or SQL, and their hash."""

    path: str | None
    sql: str | None
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """``sha256`` is of the values (not the file): equal means the same training set.

    ``known_at``: only rows published by then were used. Times are ISO 8601 in UTC. ``lake``: the
    lake's snapshots that were read, by log, where labels needed rows that PostgreSQL has no longer.
    """

    service: str
    project: str
    known_at: str
    bitemporal: bool
    full: bool
    rows: int
    first_label: str | None
    last_label: str | None
    labels: LabelsUsed
    views: tuple[ViewUsed, ...]
    columns: tuple[Column, ...]
    warnings: tuple[str, ...]
    sha256: str
    format: int = FORMAT
    transforms: tuple[TransformUsed, ...] = ()
    lake: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """As the file beside the Parquet holds it."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    def _repr_html_(self) -> str:
        """For notebooks."""
        return manifest_html(self)

    @property
    def known(self) -> datetime:
        """`known_at` as a datetime."""
        return parse_timestamp(self.known_at)


def manifest_path(training_set: Path) -> Path:
    """``labels.parquet`` has its manifest in ``labels.manifest.json``."""
    return training_set.with_name(training_set.stem + ".manifest.json")


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; the path of the training set itself will do.

    Raises:
        InputError: the file is missing or is no manifest of this format.
    """
    if path.suffix == ".parquet":
        path = manifest_path(path)
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return Manifest(
            **{
                **content,
                "labels": LabelsUsed(**content["labels"]),
                "views": tuple(ViewUsed(**view) for view in content["views"]),
                "transforms": tuple(TransformUsed(**one) for one in content.get("transforms", ())),
                "columns": tuple(Column(**column) for column in content["columns"]),
                "warnings": tuple(content["warnings"]),
                "format": {FORMAT: FORMAT}[content["format"]],
            }
        )
    except FileNotFoundError as error:
        raise InputError(f"There is no manifest {path}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a training set's manifest ({error}).") from error
