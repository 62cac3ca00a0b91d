-- breaks: no leak by arrival time
-- instead of: user_watch_stats.v1
-- What arrived late is counted as if it had been known.
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
        AND e.watched_at <= s.as_of
) AS w
