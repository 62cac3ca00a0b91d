-- Which genres does the user like? The embeddings of the last 100 watches in 30 days, weighted
-- by watch duration. Durations are summed per genre first: exact integers, and few rows to
-- unnest. The sum over genres runs in the order of their names, so that every plan adds in the
-- same order. An item or a genre that nobody knew yet counts for nothing.
SELECT
    s.user_id,
    s.as_of,
    coalesce(p.preferences, array_fill(0::real, ARRAY[32])) AS user_genre_preferences
FROM spine AS s
LEFT JOIN LATERAL (
    WITH recent AS (
        SELECT
            e.item_id,
            e.duration_ms
        FROM watch_events AS e
        WHERE
            e.user_id = s.user_id
            AND e.watched_at > s.as_of - interval '720 hours'
            AND e.watched_at <= s.as_of
            AND e.ingested_at <= s.as_of
        ORDER BY e.watched_at DESC, e.event_id DESC
        LIMIT 100
    ),

    by_genre AS (
        SELECT
            i.genre,
            sum(r.duration_ms) AS ms
        FROM recent AS r
        CROSS JOIN
            LATERAL (
                SELECT k.genre
                FROM items AS k
                WHERE
                    k.item_id = r.item_id
                    AND k.valid_from <= s.as_of
                    AND k.ingested_at <= s.as_of
                ORDER BY k.valid_from DESC, k.ingested_at DESC
                LIMIT 1
            ) AS i
        GROUP BY i.genre
    ),

    placed AS (
        SELECT
            t.genre,
            t.ms,
            v.place,
            v.dimension
        FROM by_genre AS t
        CROSS JOIN
            LATERAL (
                SELECT k.embedding
                FROM genres AS k
                WHERE k.genre = t.genre AND k.ingested_at <= s.as_of
                ORDER BY k.ingested_at DESC
                LIMIT 1
            ) AS g
        CROSS JOIN LATERAL unnest(g.embedding) WITH ORDINALITY AS v (place, dimension)
    ),

    weighted AS (
        SELECT
            d.dimension,
            (
                sum(d.ms::double precision * d.place::double precision ORDER BY d.genre)
                / nullif(sum(d.ms), 0)::double precision
            )::real AS mean
        FROM placed AS d
        GROUP BY d.dimension
    )

    SELECT array_agg(w.mean ORDER BY w.dimension) AS preferences
    FROM weighted AS w
    HAVING bool_and(w.mean IS NOT NULL)
) AS p ON TRUE
