-- What Feast's materialization has read of each log, so that a row that commits late is not lost.
-- depends: 0002.control

-- A run read `log_table` up to event time `range_end`; every row published before `settled` was
-- visible to it. The run that goes on from `range_end` reads what was published since.
CREATE TABLE materializations (
    project text NOT NULL,
    log_table text NOT NULL,
    range_end timestamptz NOT NULL,
    settled timestamptz NOT NULL,
    read_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (project, log_table, range_end)
);

-- A batch appended now whose rows say that they were published earlier, from `oldest_created`.
CREATE TABLE late_appends (
    log_table text NOT NULL,
    oldest_created timestamptz NOT NULL,
    appended_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX late_appends_by_table ON late_appends (log_table, appended_at);
