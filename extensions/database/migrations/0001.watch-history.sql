-- What happened and what is watched: the history that every computation reads.

-- One watch event. Partitioned by the month of watching, so that old months leave by DROP TABLE.
CREATE TABLE watch_events (
    event_id text COLLATE "C" NOT NULL,
    user_id bigint NOT NULL,
    item_id bigint NOT NULL,
    watched_at timestamptz NOT NULL,
    -- The database's clock, read while the ingest lock is held: an open transaction's rows
    -- are never older than the transaction itself (see extensions/asof/safe_time.py).
    ingested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Whole milliseconds: sums of integers are exact, so no order of rows can change a mean.
    duration_ms integer NOT NULL CHECK (duration_ms BETWEEN 0 AND 86400000),
    progress real NOT NULL CHECK (progress BETWEEN 0 AND 1)
) PARTITION BY RANGE (watched_at);

CREATE TABLE watch_events_default PARTITION OF watch_events DEFAULT;

CREATE INDEX watch_events_by_user ON watch_events (user_id, watched_at);
CREATE INDEX watch_events_by_item ON watch_events (item_id, watched_at);
-- A pair's latest event, without reading through all that the user watched since.
CREATE INDEX watch_events_by_pair ON watch_events (user_id, item_id, watched_at);
-- The ticks ask for a narrow range of one of these two times, over all entities.
CREATE INDEX watch_events_by_watched_at ON watch_events (watched_at);
CREATE INDEX watch_events_by_ingested_at ON watch_events (ingested_at);

-- PostgreSQL's unique indexes on a partitioned table must contain the partition key; this
-- table makes an event unique by its id alone, in every month. First arrival wins.
CREATE TABLE watch_event_ids (
    event_id text COLLATE "C" PRIMARY KEY,
    watched_at timestamptz NOT NULL
);

-- Makes the monthly partitions that cover [first, last]; those that exist are left alone.
CREATE FUNCTION ensure_watch_event_partitions(first timestamptz, last timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    month timestamp := date_trunc('month', first AT TIME ZONE 'UTC');
    partition_name text;
BEGIN
    WHILE month <= last AT TIME ZONE 'UTC' LOOP
        partition_name := 'watch_events_' || to_char(month, 'YYYY_MM');
        IF to_regclass(partition_name) IS NULL THEN
            PERFORM pg_advisory_xact_lock(hashtext('ensure_watch_event_partitions'));
            -- Rows that already wait in the default partition move to their month.
            EXECUTE format(
                'CREATE TABLE IF NOT EXISTS %I (LIKE watch_events INCLUDING DEFAULTS '
                'INCLUDING CONSTRAINTS)', partition_name);
            IF NOT EXISTS (
                SELECT FROM pg_inherits WHERE inhrelid = partition_name::regclass) THEN
                EXECUTE format(
                    'WITH moved AS (DELETE FROM watch_events_default '
                    'WHERE watched_at >= %L AND watched_at < %L RETURNING *) '
                    'INSERT INTO %I SELECT * FROM moved',
                    month AT TIME ZONE 'UTC',
                    (month + interval '1 month') AT TIME ZONE 'UTC', partition_name);
                EXECUTE format(
                    'ALTER TABLE watch_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                    partition_name, month AT TIME ZONE 'UTC',
                    (month + interval '1 month') AT TIME ZONE 'UTC');
            END IF;
        END IF;
        month := month + interval '1 month';
    END LOOP;
END $$;

-- What an item is, as a history: a correction is a new row, so that the past stays answerable.
CREATE TABLE items (
    item_id bigint NOT NULL,
    genre text COLLATE "C" NOT NULL,
    valid_from timestamptz NOT NULL,
    ingested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (item_id, valid_from, ingested_at)
);
CREATE INDEX items_by_ingested_at ON items (ingested_at);
CREATE INDEX items_by_valid_from ON items (valid_from);

-- 32 finite places, none so small or so large that a weighted mean of some could leave float32.
CREATE FUNCTION is_embedding(embedding real[])
RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN cardinality(embedding) = 32 AND array_ndims(embedding) = 1 AND NOT EXISTS (
    SELECT FROM unnest(embedding) AS e (place)
    WHERE e.place IS NULL OR NOT (e.place = 0 OR abs(e.place) BETWEEN 1e-20 AND 1e20)
);

-- A genre's place in the embedding space, as a history too.
CREATE TABLE genres (
    genre text COLLATE "C" NOT NULL,
    embedding real[] NOT NULL CHECK (is_embedding(embedding)),
    ingested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (genre, ingested_at)
);
