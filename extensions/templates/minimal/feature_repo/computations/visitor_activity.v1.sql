-- Visits of the last seven days, and the page of the latest.
SELECT
    s.visitor_id,
    s.as_of,
    v.n AS visits_7d,
    v.last_page AS last_page_7d
FROM spine AS s
CROSS JOIN LATERAL (
    SELECT
        count(*) AS n,
        coalesce((array_agg(e.page ORDER BY e.visited_at DESC, e.visit_id DESC))[1], '')
            AS last_page
    FROM visits AS e
    WHERE
        e.visitor_id = s.visitor_id
        AND e.visited_at > s.as_of - interval '7 days'
        AND e.visited_at <= s.as_of
        AND e.ingested_at <= s.as_of
) AS v
