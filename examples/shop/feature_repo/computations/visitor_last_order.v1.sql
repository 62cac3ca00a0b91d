-- How many hours ago did the visitor buy something?
SELECT
    s.visitor_id,
    s.as_of,
    coalesce(
        extract(EPOCH FROM s.as_of - o.latest)::double precision / 3600, -1
    )::real AS hours_since_order
FROM spine AS s
CROSS JOIN LATERAL (
    SELECT max(e.ordered_at) AS latest
    FROM orders AS e
    WHERE
        e.visitor_id = s.visitor_id
        AND e.status <> 'declined'
        AND e.ordered_at > s.as_of - interval '8760 hours'
        AND e.ordered_at <= s.as_of
        AND e.ingested_at <= s.as_of
) AS o
