-- How far each view version was published online, to be compared with the same note in Redis.
-- depends: 0008.stream-refusals

-- A publication counts up `intended` here, then the mark in Redis, then `confirmed`, so that a
-- crash anywhere leaves confirmed <= Redis' mark <= intended. Where that does not hold, one of the
-- two was restored without the other. `epoch` is new after each repair; `confirmed_at` is when the
-- last publication had ended, and `run_id` the run of Redis that had it. While `repair` is set,
-- one has been begun and has not ended.
CREATE TABLE online_epochs (
    view_name text NOT NULL,
    version integer NOT NULL,
    epoch uuid NOT NULL DEFAULT gen_random_uuid(),
    intended bigint NOT NULL DEFAULT 0,
    confirmed bigint NOT NULL DEFAULT 0,
    confirmed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    run_id text NOT NULL DEFAULT '',
    repair uuid,
    PRIMARY KEY (view_name, version)
);
