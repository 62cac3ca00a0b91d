-- breaks: no dependence on physical order or plan
-- instead of: user_item_progress.v1
-- Of watches at one instant, whichever comes first.
SELECT
    s.user_id,
    s.item_id,
    s.as_of,
    coalesce(e.progress, 0::real) AS user_item_watch_progress
FROM spine AS s
LEFT JOIN LATERAL (
    SELECT w.progress
    FROM watch_events AS w
    WHERE
        w.user_id = s.user_id
        AND w.item_id = s.item_id
        AND w.watched_at <= s.as_of
        AND w.ingested_at <= s.as_of
    ORDER BY w.watched_at DESC
    LIMIT 1
) AS e ON TRUE
