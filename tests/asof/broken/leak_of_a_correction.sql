-- breaks: no leak by arrival time
-- instead of: item_profile.v1
-- A correction is believed before it was made.
SELECT
    s.item_id,
    s.as_of,
    coalesce(i.genre, 'unknown') AS item_genre
FROM spine AS s
LEFT JOIN LATERAL (
    SELECT k.genre
    FROM items AS k
    WHERE k.item_id = s.item_id AND k.valid_from <= s.as_of
    ORDER BY k.valid_from DESC, k.ingested_at DESC
    LIMIT 1
) AS i ON TRUE
