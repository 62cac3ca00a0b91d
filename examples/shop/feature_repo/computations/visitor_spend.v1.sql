-- What has the visitor bought in the last 30 days?
SELECT
    s.visitor_id,
    s.as_of,
    o.spend AS spend_cents_30d,
    o.n AS orders_30d,
    o.units AS units_30d
FROM spine AS s
CROSS JOIN LATERAL (
    SELECT
        coalesce(sum(e.amount_cents), 0)::bigint AS spend,
        count(*) AS n,
        coalesce(sum(e.quantity), 0)::bigint AS units
    FROM orders AS e
    WHERE
        e.visitor_id = s.visitor_id
        AND e.status <> 'declined'
        AND e.ordered_at > s.as_of - interval '720 hours'
        AND e.ordered_at <= s.as_of
        AND e.ingested_at <= s.as_of
) AS o
