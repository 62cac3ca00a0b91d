"""How a retrieval job shows itself in a notebook: what it would read, without reading it."""

from typing import TYPE_CHECKING, Any

from extensions.reports.html import element
from extensions.reports.notebook import block, bounded_table, names, shortened
from extensions.reports.numbers import timestamp
from extensions.stores.offline.join.entity_frame import EntityQuery

if TYPE_CHECKING:
    from extensions.stores.offline.retrieval_queries import PointInTimeRequest


def point_in_time_html(request: "PointInTimeRequest", transforms: list[Any]) -> str:
    """Labels, views and transforms of a point-in-time join; opens no connection."""
    labels, options = request.labels, request.options
    columns = names(labels.columns, len(labels.columns))
    if isinstance(labels, EntityQuery):
        source = f"the rows of a query, joined in PostgreSQL; columns {columns}"
    else:
        source = f"{labels.rows.num_rows:,} labels; columns {columns}"
    rows = [
        (
            view.name,
            names((feature.column for feature in view.features), len(view.features)),
            view.table,
            "unlimited" if view.ttl is None else str(view.ttl),
        )
        for view in request.views
    ]
    rows += [
        (transform.name, names((f.name for f in transform.features), len(transform.features)),
         "computed from the joined rows", "–")
        for transform in transforms
    ]  # fmt: skip
    known = (
        "what was known by each label's time" if options.bitemporal else "all that was ever logged"
    )
    if options.known_at is not None:
        known += f", and published by {timestamp(options.known_at)}"
    return block(
        "Point-in-time retrieval, not run yet",
        element("p", f"One row for each of {source}. It uses {known}."),
        bounded_table("Views that are joined", ("View", "Features", "Log", "Time to live"), rows),
        _how_to_run(),
    )


def rows_html(doing: str, query: str | None = None) -> str:
    """Another job: what it does, and the beginning of its query."""
    parts = [element("pre", shortened(query))] if query is not None else []
    return block(f"Retrieval, not run yet: {doing}", *parts, _how_to_run())


def _how_to_run() -> Any:
    return element(
        "p", "Run it with ", element("code", ".to_df()"), ", ", element("code", ".to_arrow()"),
        " or, for more rows than fit into memory, ", element("code", ".to_batches()"), ".",
    )  # fmt: skip
