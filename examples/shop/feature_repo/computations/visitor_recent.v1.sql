-- Which products has the visitor looked at, the latest first? Each once, 20 at most.
SELECT
    s.visitor_id,
    s.as_of,
    coalesce(r.skus, ARRAY[]::text[]) AS recent_skus
FROM spine AS s
CROSS JOIN LATERAL (
    SELECT array_agg(l.sku ORDER BY l.latest DESC, l.sku ASC) AS skus
    FROM (
        SELECT
            e.sku,
            max(e.viewed_at) AS latest
        FROM page_views AS e
        WHERE
            e.visitor_id = s.visitor_id
            AND e.act = 'view'
            AND e.viewed_at > s.as_of - interval '720 hours'
            AND e.viewed_at <= s.as_of
            AND e.ingested_at <= s.as_of
        GROUP BY e.sku
        ORDER BY latest DESC, e.sku ASC
        LIMIT 20
    ) AS l
) AS r
