-- Partitions that stand still because their next batch cannot be taken apart, and what an
-- operator decided about it.
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
