-- How far did the user get in the item, the last time?
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
    ORDER BY w.watched_at DESC, w.event_id DESC
    LIMIT 1
) AS e ON TRUE
