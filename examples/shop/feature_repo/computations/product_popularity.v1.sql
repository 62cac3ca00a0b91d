-- How much is the product looked at now? Views of 14 days, fading with their age.
SELECT
    s.sku,
    s.as_of,
    coalesce(v.score, 0::double precision) AS popularity
FROM spine AS s
CROSS JOIN LATERAL (
    -- A sum of floats depends on its order: the order is part of the definition.
    SELECT
        sum(
            exp(extract(EPOCH FROM s.as_of - e.viewed_at)::double precision / -259200)
            ORDER BY e.viewed_at, e.view_id
        ) AS score
    FROM page_views AS e
    WHERE
        e.sku = s.sku
        AND e.act = 'view'
        AND e.viewed_at > s.as_of - interval '336 hours'
        AND e.viewed_at <= s.as_of
        AND e.ingested_at <= s.as_of
) AS v
