"""Values to Redis, through Feast's online store; newest wins there."""

from datetime import datetime

import pyarrow as pa
from feast import FeatureStore
from psycopg import sql

from extensions.stores.log_publishing import latest, online_store, write_query
from streaming.processing.realtime_views import LiveView


class Publisher:
    """Writes rows of a log (`feature_computation.log_values`) as the current values of a view.

    Steps and sweeps share it in their threads, as they share the client behind it.

    Raises:
        SkewlessError: the repository names another online store than ours.
    """

    def __init__(self, feast_store: FeatureStore) -> None:
        self.feast_store = feast_store
        self._online = online_store(feast_store)

    def publish(self, view: LiveView, rows: pa.Table) -> None:
        """Return when Redis has answered for every row; a row that is not newer changes nothing.

        Raises:
            SkewlessError: a row does not fit the view as it is registered.
        """
        if rows.num_rows:
            # Their times are the database's, of a moment ago.
            self._online.write_arrow(self.feast_store.config, view.feature_view, rows, checked=True)

    def publish_logged(self, view: LiveView, since: datetime) -> int:
        """Each entity's newest row of the log from ``since`` on; returns how many were newer.

        Raises:
            SkewlessError: as `publish`.
        """
        rows = sql.SQL("event_timestamp >= {}").format(sql.Literal(since))
        query = latest(view.computation, rows, allowed=self.feast_store.config)
        return write_query(self.feast_store, view.feature_view, query)
