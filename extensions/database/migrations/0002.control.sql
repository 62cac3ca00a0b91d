-- How far each part has come: what a crash must not forget.

-- Per view version: every change up to `processed_through` is in the log, and every row of the
-- log up to `published_through` is online. `live_from` is the first moment it was computed
-- live; null while only backfills have written the log.
CREATE TABLE watermarks (
    view_name text NOT NULL,
    version integer NOT NULL,
    live_from timestamptz,
    processed_through timestamptz NOT NULL,
    published_through timestamptz,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (view_name, version)
);

-- A backfill of (range_start, range_end]; finished when done_through reaches range_end.
CREATE TABLE backfills (
    view_name text NOT NULL,
    version integer NOT NULL,
    range_start timestamptz NOT NULL,
    range_end timestamptz NOT NULL,
    done_through timestamptz NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (view_name, version, range_start, range_end)
);

-- The stream's position, committed with the events it brought. `processed_through` is the
-- partition's watermark; it advances while the topic is idle too.
CREATE TABLE stream_offsets (
    consumer_group text NOT NULL,
    topic text NOT NULL,
    kafka_partition integer NOT NULL,
    next_offset bigint NOT NULL,
    processed_through timestamptz,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer_group, topic, kafka_partition)
);
