"""The versions whose values are maintained by ticks, backfills and the stream."""

from collections.abc import Mapping

import psycopg

from extensions.asof import Computation
from extensions.stores.registry.version_store import has_versions, published


def live_computations(
    conn: psycopg.Connection, declared: Mapping[str, Computation]
) -> dict[str, Computation]:
    """Return the computations to maintain, by ``view.vN``.

    A published version is computed as it was published, whatever its file says by now; a version
    that the files name and nobody applied yet is not. Of views that were never published, what
    the files declare.
    """
    if not has_versions(conn):
        return dict(declared)
    known = published(conn)
    views = {one.view_name for one in known}
    found = {c.name: c for c in declared.values() if c.view not in views}
    for one in known:
        if one.kept and one.kind == "computation":
            found[one.name] = one.definition.computation()
    return dict(sorted(found.items()))
