-- How often does a look at the product become a sale? Two whole numbers, one division.
SELECT
    s.sku,
    s.as_of,
    v.n AS views_14d,
    o.n AS orders_14d,
    coalesce(o.n::double precision / nullif(v.n, 0)::double precision, 0)::real AS conversion_14d
FROM spine AS s
CROSS JOIN
    LATERAL (
        SELECT count(*) AS n
        FROM page_views AS e
        WHERE
            e.sku = s.sku
            AND e.act = 'view'
            AND e.viewed_at > s.as_of - interval '336 hours'
            AND e.viewed_at <= s.as_of
            AND e.ingested_at <= s.as_of
    ) AS v
CROSS JOIN LATERAL (
    SELECT count(*) AS n
    FROM orders AS e
    WHERE
        e.sku = s.sku
        AND e.status <> 'declined'
        AND e.ordered_at > s.as_of - interval '336 hours'
        AND e.ordered_at <= s.as_of
        AND e.ingested_at <= s.as_of
) AS o
