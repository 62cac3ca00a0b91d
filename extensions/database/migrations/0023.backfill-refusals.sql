-- Values that a backfill could not compute: holes in the past of single entities.
-- depends: 0019.refused-entities

-- From `since` until the entity's next row in the log, the log holds an older value than history
-- gives. `entity` and `digest` are those of `refused_entities`.
CREATE TABLE backfill_refusals (
    view_name text NOT NULL,
    version integer NOT NULL,
    digest bytea NOT NULL,
    entity text[] NOT NULL,
    since timestamptz NOT NULL,
    why text NOT NULL,
    refused_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (view_name, version, since, digest)
);
