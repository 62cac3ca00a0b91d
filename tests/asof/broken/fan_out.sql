-- breaks: one row out per row in
-- instead of: item_profile.v1
-- An item that was classified twice is answered twice.
SELECT
    s.item_id,
    s.as_of,
    coalesce(i.genre, 'unknown') AS item_genre
FROM spine AS s
LEFT JOIN items AS i
    ON s.item_id = i.item_id AND s.as_of >= i.valid_from AND s.as_of >= i.ingested_at
