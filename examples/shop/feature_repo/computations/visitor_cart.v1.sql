-- Is there something in the cart? The last change put something in, and no order came since.
SELECT
    s.visitor_id,
    s.as_of,
    coalesce(
        c.act = 'add' AND (o.latest IS NULL OR o.latest < c.viewed_at), FALSE
    ) AS cart_open
FROM spine AS s
LEFT JOIN LATERAL (
    SELECT
        e.act,
        e.viewed_at
    FROM page_views AS e
    WHERE
        e.visitor_id = s.visitor_id
        AND e.act <> 'view'
        AND e.viewed_at <= s.as_of
        AND e.ingested_at <= s.as_of
    ORDER BY e.viewed_at DESC, e.view_id DESC
    LIMIT 1
) AS c ON TRUE
CROSS JOIN LATERAL (
    SELECT max(e.ordered_at) AS latest
    FROM orders AS e
    WHERE
        e.visitor_id = s.visitor_id
        AND e.status <> 'declined'
        AND e.ordered_at <= s.as_of
        AND e.ingested_at <= s.as_of
) AS o
