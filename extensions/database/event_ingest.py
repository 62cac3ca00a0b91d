"""Event ingest: one insert statement, unique by event id, first arrival wins."""

import psycopg

# Every transaction that stores events takes this lock, shared, before it reads the clock. The
# safe time (extensions.asof.safe_time) is computed from its holders.
INGEST_LOCK = 7_305_808_071_010_213

# `batch` holds the columns of watch_events and `arrival`, a row's place in the order of arrival;
# a null ingested_at means the database's clock. Ids go in sorted, so that two writers of the
# same ids wait for each other and do not deadlock; events go in by user, so that neighbours in
# the indexes are written one after the other (a fifth of the time of storing them).
INSERT_BATCH = """
WITH first_arrivals AS (
    SELECT DISTINCT ON (event_id) * FROM batch ORDER BY event_id, arrival
),
fresh AS (
    INSERT INTO watch_event_ids (event_id, watched_at)
    SELECT event_id, watched_at FROM first_arrivals ORDER BY event_id
    ON CONFLICT DO NOTHING
    RETURNING event_id
)
INSERT INTO watch_events
    (event_id, user_id, item_id, watched_at, ingested_at, duration_ms, progress)
SELECT
    f.event_id, f.user_id, f.item_id, f.watched_at,
    coalesce(f.ingested_at, clock_timestamp()), f.duration_ms, f.progress
FROM first_arrivals AS f
INNER JOIN fresh USING (event_id)
ORDER BY f.user_id, f.item_id
"""


def take_ingest_lock(conn: psycopg.Connection) -> None:
    """Mark this transaction as one that stores events, until it ends."""
    conn.execute("SELECT pg_advisory_xact_lock_shared(%s)", [INGEST_LOCK])
