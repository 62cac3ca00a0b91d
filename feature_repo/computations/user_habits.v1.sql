-- How long does the user watch, and at which hour of the day?
SELECT
    s.user_id,
    s.as_of,
    coalesce(h.avg_duration_min, 0::real) AS user_avg_watch_duration_min,
    coalesce(h.preferred_hour, 20::bigint) AS user_preferred_hour
FROM spine AS s
CROSS JOIN LATERAL (
    WITH by_hour AS (
        SELECT
            w.hour_of_day,
            count(*) AS n,
            sum(w.duration_ms) AS ms,
            max(w.watched_at) AS latest,
            (array_agg(w.event_id ORDER BY w.watched_at DESC, w.event_id DESC))[1] AS latest_id
        FROM (
            SELECT
                e.event_id,
                e.watched_at,
                e.duration_ms,
                extract(HOUR FROM e.watched_at AT TIME ZONE 'UTC')::bigint AS hour_of_day
            FROM watch_events AS e
            WHERE
                e.user_id = s.user_id
                AND e.watched_at > s.as_of - interval '720 hours'
                AND e.watched_at <= s.as_of
                AND e.ingested_at <= s.as_of
        ) AS w
        GROUP BY w.hour_of_day
    )

    SELECT
        -- Both sums are exact integers: one division, rounded once to double, once to real.
        (
            sum(t.ms)::double precision / (sum(t.n) * 60000)::double precision
        )::real AS avg_duration_min,
        (
            array_agg(t.hour_of_day ORDER BY t.n DESC, t.latest DESC, t.latest_id DESC)
        )[1] AS preferred_hour
    FROM by_hour AS t
) AS h
