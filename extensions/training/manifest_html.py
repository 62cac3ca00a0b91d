"""How a training set and its manifest show themselves in a notebook; no file is read."""

from typing import TYPE_CHECKING

from extensions.reports.html import element
from extensions.reports.notebook import MOST_NAMES, block, bounded_table, shortened
from extensions.reports.numbers import MISSING, share

if TYPE_CHECKING:
    from extensions.training.manifest import Manifest


def manifest_html(manifest: "Manifest", path: str | None = None) -> str:
    """Rows, span, versions, columns and warnings. ``path``: where the Parquet file is."""
    span = (
        f"labels from {manifest.first_label} to {manifest.last_label}"
        if manifest.first_label
        else "no labels"
    )
    versions = [
        (
            view.view, f"v{view.version}", view.table or "log is gone",
            MISSING if view.labels is None else f"{view.labels:,}", share(view.default_rate),
            f"{view.refused:,}",
        )
        for view in manifest.views
    ] + [
        (
            transform.transform, "–" if transform.version is None else f"v{transform.version}",
            "transform", f"{transform.labels:,}", MISSING, MISSING,
        )
        for transform in manifest.transforms
    ]  # fmt: skip
    columns = [
        (column.name, column.type, share(column.null_rate), share(column.default_rate))
        for column in manifest.columns
    ]
    warnings = [element("li", shortened(warning)) for warning in manifest.warnings[:MOST_NAMES]]
    more = len(manifest.warnings) - MOST_NAMES
    if more > 0:
        warnings.append(element("li", f"… and {more:,} more"))
    return block(
        f"Training set of {manifest.service}: {manifest.rows:,} rows",
        element("p", f"{span}; as known at {manifest.known_at}."),
        element("p", "In ", element("code", path), ".") if path else element("p", ""),
        bounded_table(
            "Versions that the labels got",
            ("View or transform", "Version", "Log", "Labels", "Labels without a row", "Refused"),
            versions,
        ),
        bounded_table("Columns", ("Column", "Type", "Null", "Declared default"), columns),
        element("p", f"{len(manifest.warnings)} warnings:" if warnings else "No warnings."),
        element("ul", *warnings) if warnings else element("p", ""),
        element("p", "SHA-256 of the values: ", element("code", manifest.sha256)),
    )
