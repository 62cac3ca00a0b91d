-- breaks: one row out per row in
-- instead of: user_watch_stats.v1
-- A question asked twice is answered once.
SELECT
    s.user_id,
    s.as_of,
    count(e.event_id) AS user_watch_count_7d
FROM (SELECT DISTINCT * FROM spine) AS s
LEFT JOIN watch_events AS e
    ON
        s.user_id = e.user_id
        AND e.watched_at > s.as_of - interval '7 days'
        AND s.as_of >= e.watched_at
        AND s.as_of >= e.ingested_at
GROUP BY s.user_id, s.as_of
