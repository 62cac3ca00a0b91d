"""The declared sources: history tables and event streams, as the rest of the engine sees them.

The repository declares a table in SQL (``feature_repo/history/*.sql``) and in Feast (a
``PostgreSQLSource`` with the tag ``keys``), a stream in Feast (a ``KafkaSource`` whose
``batch_source`` is that table). Columns and types come from PostgreSQL's catalogue.
"""

from extensions.sources.event_stream import EventStream
from extensions.sources.history_table import Column, HistoryTable
from extensions.sources.loading import Sources, load_sources

__all__ = ["Column", "EventStream", "HistoryTable", "Sources", "load_sources"]
