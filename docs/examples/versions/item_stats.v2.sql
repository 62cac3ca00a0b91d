-- How popular is the item now? Watches of 14 days, each fading by a fifth per day of age.
SELECT
    s.item_id,
    s.as_of,
    least(1.0::double precision, coalesce(w.score, 0) / 1000)::real AS item_popularity_score
FROM spine AS s
CROSS JOIN LATERAL (
    -- A sum of floats depends on its order: the order is part of the definition.
    SELECT
        sum(
            exp(-0.2 * (extract(EPOCH FROM s.as_of - e.watched_at)::double precision / 86400))
            ORDER BY e.watched_at, e.event_id
        ) AS score
    FROM watch_events AS e
    WHERE
        e.item_id = s.item_id
        AND e.watched_at > s.as_of - interval '336 hours'
        AND e.watched_at <= s.as_of
        AND e.ingested_at <= s.as_of
) AS w
