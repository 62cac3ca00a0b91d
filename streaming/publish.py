"""Values to Redis, through Feast's online store; newest wins there."""

from dataclasses import dataclass

import pyarrow as pa
from feast import FeatureStore

from streaming.views import LiveView


@dataclass(frozen=True)
class Publisher:
    """Writes rows of a log (`streaming.values.log_values`) as the current values of a view.

    The step and the sweep share it in two threads, as they share the client behind it.
    """

    feast_store: FeatureStore

    def publish(self, view: LiveView, rows: pa.Table) -> None:
        """Return when Redis has answered for every row; a row that is not newer changes nothing."""
        if rows.num_rows == 0:
            return
        provider = self.feast_store._get_provider()  # noqa: SLF001 - Feast has no public way
        write_arrow = getattr(getattr(provider, "online_store", None), "write_arrow", None)
        if write_arrow is not None:
            write_arrow(self.feast_store.config, view.feature_view, rows)
        else:
            provider.ingest_df(view.feature_view, rows.to_pandas())
