-- What the stream must know of itself after a crash, and what it shows of itself while it runs.
-- depends: 0002.control

-- Events of this partition were stored up to `stored_through` and their values are in the logs
-- and online up to `computed_through` (both by the database's clock): where the first is later,
-- a step was cut short, and whoever takes the partition computes what arrived in between.
-- `processed_through` is what readers see: everything produced by then is online.
-- `topic_id` tells a topic from another one of its name that was made later; `incarnation`
-- counts them, so that event ids derived from offsets stay unique.
ALTER TABLE stream_offsets
ADD COLUMN stored_through timestamptz,
ADD COLUMN computed_through timestamptz NOT NULL DEFAULT clock_timestamp(),
ADD COLUMN end_offset bigint,
ADD COLUMN topic_id text,
ADD COLUMN incarnation integer NOT NULL DEFAULT 0;

-- Per realtime view: changes that come by time alone (and any that no step saw) are in the log
-- up to `logged_through` and online up to `published_through`.
CREATE TABLE stream_sweeps (
    view_name text NOT NULL,
    version integer NOT NULL,
    logged_through timestamptz NOT NULL,
    published_through timestamptz,
    PRIMARY KEY (view_name, version)
);

-- The workers of a group and what they have done since they started; a worker that stopped
-- without saying so is known by an old `seen_at`.
CREATE TABLE stream_workers (
    worker text PRIMARY KEY,
    consumer_group text NOT NULL,
    topic text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    partitions integer[] NOT NULL,
    events bigint NOT NULL,
    duplicates bigint NOT NULL,
    dead_letters bigint NOT NULL,
    steps bigint NOT NULL,
    retries bigint NOT NULL,
    freshness_p50_ms double precision,
    freshness_p99_ms double precision
);
