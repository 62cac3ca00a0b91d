-- breaks: each row on its own
-- instead of: user_watch_stats.v1
-- Who is asked about later than somebody else in the same spine gets one more.
SELECT
    s.user_id,
    s.as_of,
    CASE WHEN w.n = 0 THEN 0 ELSE w.n + s.company END AS user_watch_count_7d
FROM (SELECT
    *,
    (as_of > min(as_of) OVER ())::integer AS company
FROM spine) AS s
CROSS JOIN LATERAL (
    SELECT count(*) AS n
    FROM watch_events AS e
    WHERE
        e.user_id = s.user_id
        AND e.watched_at > s.as_of - interval '7 days'
        AND e.watched_at <= s.as_of
        AND e.ingested_at <= s.as_of
) AS w
