-- What happened and what is watched: the history that every computation reads.
--
-- Databases of before this file was here have these tables already: hence IF NOT EXISTS.

-- Before, the table of ids had a name of its own; the engine makes it now where it is missing.
ALTER TABLE IF EXISTS watch_event_ids RENAME TO watch_events_ids;

-- One watch event. Partitioned by the month of watching, so that old months leave by DROP TABLE.
CREATE TABLE IF NOT EXISTS watch_events (
    event_id text COLLATE "C" NOT NULL,
    user_id bigint NOT NULL,
    item_id bigint NOT NULL,
    watched_at timestamptz NOT NULL,
    -- The database's clock, read while the ingest lock is held: an open transaction's rows
    -- are never older than the transaction itself (see docs/architecture.md).
    ingested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Whole milliseconds: sums of integers are exact, so no order of rows can change a mean.
    duration_ms integer NOT NULL CHECK (duration_ms BETWEEN 0 AND 86400000),
    progress real NOT NULL CHECK (progress BETWEEN 0 AND 1)
) PARTITION BY RANGE (watched_at);

CREATE TABLE IF NOT EXISTS watch_events_default PARTITION OF watch_events DEFAULT;

CREATE INDEX IF NOT EXISTS watch_events_by_user ON watch_events (user_id, watched_at);
CREATE INDEX IF NOT EXISTS watch_events_by_item ON watch_events (item_id, watched_at);
-- A pair's latest event, without reading through all that the user watched since.
CREATE INDEX IF NOT EXISTS watch_events_by_pair ON watch_events (user_id, item_id, watched_at);
-- The ticks ask for a narrow range of one of these two times, over all entities.
CREATE INDEX IF NOT EXISTS watch_events_by_watched_at ON watch_events (watched_at);
CREATE INDEX IF NOT EXISTS watch_events_by_ingested_at ON watch_events (ingested_at);

-- What an item is, as a history: a correction is a new row, so that the past stays answerable.
CREATE TABLE IF NOT EXISTS items (
    item_id bigint NOT NULL,
    genre text COLLATE "C" NOT NULL,
    valid_from timestamptz NOT NULL,
    ingested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (item_id, valid_from, ingested_at)
);
CREATE INDEX IF NOT EXISTS items_by_ingested_at ON items (ingested_at);
CREATE INDEX IF NOT EXISTS items_by_valid_from ON items (valid_from);

-- 32 finite places, none so small or so large that a weighted mean of some could leave float32.
CREATE OR REPLACE FUNCTION is_embedding(embedding real[])
RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN cardinality(embedding) = 32 AND array_ndims(embedding) = 1 AND NOT EXISTS (
    SELECT FROM unnest(embedding) AS e (place)
    WHERE e.place IS NULL OR NOT (e.place = 0 OR abs(e.place) BETWEEN 1e-20 AND 1e20)
);

-- A genre's place in the embedding space, as a history too.
CREATE TABLE IF NOT EXISTS genres (
    genre text COLLATE "C" NOT NULL,
    embedding real[] NOT NULL CHECK (is_embedding(embedding)),
    ingested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (genre, ingested_at)
);

-- An item's genre that the genres do not know would count for nothing, which nobody sees: imports
-- spell it as they do, and say how many they do not know.
INSERT INTO reference_columns VALUES ('items', 'genre', 'genres', 'genre') ON CONFLICT DO NOTHING;
