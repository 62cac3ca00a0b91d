-- How often has the visitor looked at the product in 30 days?
SELECT
    s.visitor_id,
    s.sku,
    s.as_of,
    v.n AS pair_views_30d
FROM spine AS s
CROSS JOIN LATERAL (
    SELECT count(*) AS n
    FROM page_views AS e
    WHERE
        e.visitor_id = s.visitor_id
        AND e.sku = s.sku
        AND e.act = 'view'
        AND e.viewed_at > s.as_of - interval '720 hours'
        AND e.viewed_at <= s.as_of
        AND e.ingested_at <= s.as_of
) AS v
