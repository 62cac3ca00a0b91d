-- breaks: the same in every engine
-- instead of: item_stats.v1
-- A sum of reals, in order: a real in PostgreSQL, a double in DuckDB.
SELECT
    s.item_id,
    s.as_of,
    coalesce(w.score, 0::real) AS item_popularity_score
FROM spine AS s
CROSS JOIN LATERAL (
    SELECT sum(e.progress ORDER BY e.watched_at, e.event_id) AS score
    FROM watch_events AS e
    WHERE
        e.item_id = s.item_id
        AND e.watched_at > s.as_of - interval '14 days'
        AND e.watched_at <= s.as_of
        AND e.ingested_at <= s.as_of
) AS w
