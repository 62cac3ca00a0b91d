-- breaks: asks no clock
-- instead of: user_watch_stats.v1
-- Nothing counts that lies in the future of the day on which somebody asks.
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
        AND e.watched_at <= least(s.as_of, now())
        AND e.ingested_at <= s.as_of
) AS w
