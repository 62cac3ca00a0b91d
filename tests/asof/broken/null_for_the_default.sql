-- breaks: declared default
-- instead of: user_item_progress.v1
-- Who never watched gets null, not the declared default.
SELECT
    s.user_id,
    s.item_id,
    s.as_of,
    e.progress AS user_item_watch_progress
FROM spine AS s
LEFT JOIN LATERAL (
    SELECT w.progress
    FROM watch_events AS w
    WHERE
        w.user_id = s.user_id
        AND w.item_id = s.item_id
        AND w.watched_at <= s.as_of
        AND w.ingested_at <= s.as_of
    ORDER BY w.watched_at DESC, w.event_id DESC
    LIMIT 1
) AS e ON TRUE
