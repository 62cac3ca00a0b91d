"""What a repository's configuration says of a view's rows online: layout, overwriting, age."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
from feast import RepoConfig
from feast.utils import make_tzaware

from extensions.stores.online.redis_io import Trust
from extensions.stores.online_codec.row_format import Layout
from extensions.stores.values.future_rows import allowance_of
from extensions.timestamps import EPOCH

MICROSECOND = timedelta(microseconds=1)


def layout_of(config: RepoConfig, table: Any) -> Layout:
    """The layout of a view's rows under this configuration's versioning."""
    return Layout.of(table, versioning=config.registry.enable_online_feature_view_versioning)


def trust_of(config: RepoConfig, layout: Layout, before: int | None = None) -> Trust:
    """Which stored rows a write in this layout may replace; ``before`` as in `Trust`."""
    return Trust(layout, allowance_of(config) // MICROSECOND, before)


def lifetime_of(config: RepoConfig, table: Any) -> timedelta | None:
    """How long after its event time a row of this view is served; None: for ever."""
    return None if config.online_store.serve_expired else getattr(table, "ttl", None) or None


def oldest_event(config: RepoConfig, table: Any) -> int | None:
    """Event times before this count as missing, in microseconds; None where age is no matter."""
    ttl = lifetime_of(config, table)
    return to_micros(datetime.now(UTC) - ttl) if ttl else None


def to_micros(at: datetime | None) -> int | None:
    """Microseconds since 1970; a time without a zone is UTC; None for None and NaT."""
    if at is None or pd.isna(at):
        return None
    return (make_tzaware(at) - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """The reverse of `to_micros`.

    Raises:
        OverflowError: no datetime can hold it.
    """
    return EPOCH + timedelta(microseconds=micros)
