-- How much has the user watched in the last 7 days? A watch of less than a minute was a mistake.
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
        AND e.watched_at > s.as_of - interval '168 hours'
        AND e.watched_at <= s.as_of
        AND e.ingested_at <= s.as_of
        AND e.duration_ms >= 60000
) AS w
