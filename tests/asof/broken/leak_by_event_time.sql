-- breaks: no leak by event time
-- instead of: user_watch_stats.v1
-- What was announced ahead of its time is counted at once.
SELECT
    s.user_id,
    s.as_of,
    w.n AS user_watch_count_7d
FROM spine AS s
CROSS JOIN LATERAL (
    SELECT count(*) AS n
    FROM watch_events AS e
    WHERE
        e.user_id = s.user_id
        AND e.watched_at > s.as_of - interval '7 days'
        AND e.ingested_at <= s.as_of
) AS w
