"""The section ``lake`` of ``feature_store.yaml``: where the lake is, and what is kept where."""

import os
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from extensions.addresses import home
from extensions.asof.durations import read_duration
from extensions.errors import ConfigurationError
from extensions.repository import STORE_FILE
from extensions.suggestions import did_you_mean

SECTION = "lake"
_KEYS = ("warehouse", "properties", "keep_snapshots", "hot")
DEFAULT = "default"
_SCHEMES = ("file", "s3", "s3a", "gs", "gcs", "abfs", "abfss")
KEEP_SNAPSHOTS = timedelta(days=7)


@dataclass(frozen=True)
class LakeSettings:
    """Where the lake is.

    ``warehouse``: a URL (``file``, ``s3``, ``gs``, ``abfss``); ``properties``: PyIceberg's, for
    its file systems (``s3.endpoint``, …); ``keep_snapshots``: how long a snapshot that is not the
    current one can be read; ``hot``: how long rows of a view's logs stay in PostgreSQL at least, by
    view, or for the others by ``default``; ``configured``: whether the section is there, so that
    refreshes export.
    """

    warehouse: str
    properties: dict[str, str] = field(default_factory=dict)
    keep_snapshots: timedelta = KEEP_SNAPSHOTS
    hot: dict[str, timedelta] = field(default_factory=dict)
    configured: bool = False

    def hot_window(self, view: str) -> timedelta | None:
        """How long rows of a view's logs stay in PostgreSQL; None: for ever."""
        return self.hot.get(view, self.hot.get(DEFAULT))


def read_settings(repository: Path) -> LakeSettings:
    """The settings of a repository; the folder ``.skewless/lake`` where it has none.

    Raises:
        ConfigurationError: a setting is unknown or wrong.
    """
    path = repository / STORE_FILE
    settings = yaml.safe_load(os.path.expandvars(path.read_text())) or {}
    if SECTION not in settings:
        return LakeSettings(_folder(home() / "lake"))
    return _settings(settings[SECTION] or {}, repository)


def _settings(section: Any, repository: Path) -> LakeSettings:
    if not isinstance(section, dict):
        raise _wrong(f"is {section!r}: write settings below it ({', '.join(_KEYS)}), or nothing")
    for name in section:
        if name not in _KEYS:
            raise _wrong(
                f"has no setting {name!r}: it knows {', '.join(_KEYS)}."
                f"{did_you_mean(str(name), list(_KEYS))}".rstrip(".")
            )
    properties = section.get("properties") or {}
    if not isinstance(properties, dict):
        raise _wrong("has properties that are no mapping of names to values")
    keep = KEEP_SNAPSHOTS
    if "keep_snapshots" in section:
        told = read_duration(str(section["keep_snapshots"]))
        if told is None or told <= timedelta(0):
            raise _wrong(
                f"keeps snapshots for {section['keep_snapshots']!r}: write a time as '7 days'"
            )
        keep = told
    return LakeSettings(
        _warehouse(section.get("warehouse"), repository),
        {str(name): str(value) for name, value in properties.items()},
        keep,
        _hot(section.get("hot")),
        configured=True,
    )


def _hot(written: Any) -> dict[str, timedelta]:
    if written is None:
        return {}
    if not isinstance(written, dict):
        raise _wrong(
            f"has the hot windows {written!r}: name views, or default, as in "
            "`hot: {default: 30 days, user_watch_stats: 7 days}`"
        )
    windows = {}
    for view, text in written.items():
        window = read_duration(str(text))
        if window is None:
            raise _wrong(f"keeps {view} hot for {text!r}: write a time as '30 days'")
        windows[str(view)] = window
    return windows


def _warehouse(written: Any, repository: Path) -> str:
    if written is None:
        return _folder(home() / "lake")
    scheme = urlsplit(str(written)).scheme
    if not scheme:
        return _folder(repository / str(written))
    if scheme not in _SCHEMES:
        raise _wrong(
            f"names the warehouse {written!r}: a folder, or a URL of one of these kinds: "
            f"{', '.join(_SCHEMES)}"
        )
    return str(written).rstrip("/")


def _folder(path: Path) -> str:
    # As Iceberg's file systems read it: not percent-encoded.
    return f"file://{path.resolve()}"


def _wrong(what: str) -> ConfigurationError:
    return ConfigurationError(f"The section `{SECTION}` of {STORE_FILE} {what}.")
