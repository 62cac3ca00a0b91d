-- Partitions that stand still because their next batch cannot be taken apart, and what an
-- operator decided about it; and which columns hold values that another table explains.
-- depends: 0004.stream

-- A stop is current while the partition's next offset is `first_offset` and nobody has skipped
-- it. `why` is the operator's reason for leaving the records out.
CREATE TABLE stream_stops (
    consumer_group text NOT NULL,
    topic text NOT NULL,
    kafka_partition integer NOT NULL,
    first_offset bigint NOT NULL,
    last_offset bigint NOT NULL,
    cause text NOT NULL,
    stopped_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    skipped_at timestamptz,
    why text,
    PRIMARY KEY (consumer_group, topic, kafka_partition, first_offset)
);

-- Columns whose values another table explains: a computation that looks a value up and does not
-- find it counts the row for nothing, which nobody sees. An import spells them as that table
-- does, and says how many it does not know. One row for each; a history table of one's own adds
-- its own here.
CREATE TABLE reference_columns (
    table_name text NOT NULL,
    column_name text NOT NULL,
    reference_table text NOT NULL,
    reference_column text NOT NULL,
    PRIMARY KEY (table_name, column_name)
);
