-- Entities whose value a computation cannot give or a log cannot hold: an overflow, a division by
-- zero, a key that is too long for an index. The view goes on without them.
-- depends: 0018.time-partitions

-- `entity`: the keys as texts, in the order of the join keys; `digest` stands for them in the
-- index, since they may be what is too long for one. `as_of`: of the first refusal.
CREATE TABLE refused_entities (
    view_name text NOT NULL,
    version integer NOT NULL,
    digest bytea NOT NULL,
    entity text[] NOT NULL,
    why text NOT NULL,
    as_of timestamptz NOT NULL,
    refused_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (view_name, version, digest)
);
