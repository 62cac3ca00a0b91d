"""Delete a view's or an entity's rows from Redis, and nothing of another view's or project's."""

import re
from collections.abc import Sequence
from itertools import permutations
from typing import Any

from feast import FeatureView, RepoConfig

from extensions.stores.online.prefix_claims import Claim, claim_of, others, release
from extensions.stores.online.publish_marks import forget_marks
from extensions.stores.online.redis_io import drop, scan
from extensions.stores.online_codec.redis_keys import Place, entity_prefix, place_of
from extensions.stores.online_codec.row_format import Layout

# Versions of a view whose rows are deleted with it.
VERSIONS = 256


def version_names(table: FeatureView) -> list[str]:
    """The names that versions of a view have in Redis."""
    return [table.name, *(f"{table.name}_v{number}" for number in range(1, VERSIONS))]


def delete_rows(
    client: Any, config: RepoConfig, table: FeatureView, names: Sequence[str]
) -> list[Claim]:
    """Delete the rows of some versions of a view, with their claims and marks.

    Args:
        client: The connection to Redis.
        config: The repository's configuration.
        table: The view.
        names: The versions' names in Redis (`version_names`), at least one.

    Returns:
        The claims that were released.
    """
    place = place_of(config, table, names[0])
    claims = {name: claim_of(table.name, Layout(name, ()), place) for name in names}
    # A name that another view version has claimed never stood for one of ours.
    taken = others(client, config, claims.values())
    own = [name for name, (field, _) in claims.items() if field not in taken]
    if place.composite:
        _delete_hashes(client, place, names, own)
    else:
        tags = [Layout(name, ()).tag for name in own]
        for keys in scan(client, place.prefix):
            drop(client, keys, tags)
    release(client, config, claims.values())
    forget_marks(client, config, names)
    return list(claims.values())


def _delete_hashes(client: Any, place: Place, names: Sequence[str], own: Sequence[str]) -> None:
    """Delete whole keys: a composite key's view is part of its name."""
    start = place.prefix.removesuffix(names[0].encode() + b":")
    ours = re.compile(
        re.escape(start) + b"(?:" + b"|".join(re.escape(name.encode()) for name in own) + b"):",
        re.DOTALL,
    )
    prefix = place.prefix if len(names) == 1 else place.prefix.removesuffix(b":")
    for keys in scan(client, prefix):
        for key in filter(ours.match, keys) if own else ():
            client.unlink(key)


def delete_entity(client: Any, config: RepoConfig, join_keys: Sequence[str]) -> None:
    """Delete the rows of every view with these join keys."""
    # The leading key of a view stands first, so that the others' order is not known here.
    for order in permutations(join_keys):
        for keys in scan(client, entity_prefix(config, order)):
            for key in keys:
                client.unlink(key)
