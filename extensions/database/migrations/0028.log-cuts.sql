-- Which logs PostgreSQL no longer holds whole: older rows are in the lake alone.
-- depends: 0027.every-control-table

-- One row for each log that was cut. `cut_before`: the event time from which on the log answers as
-- if nothing had been cut. `exported_through`, `snapshot_id`: the arrival through which the lake
-- held the log when its rows were compared, and the snapshot that was compared. `first_event`: the
-- earliest event time that was ever cut.
CREATE TABLE log_cuts (
    log_table text PRIMARY KEY,
    cut_before timestamptz NOT NULL,
    first_event timestamptz NOT NULL,
    exported_through timestamptz NOT NULL,
    snapshot_id bigint NOT NULL,
    rows_cut bigint NOT NULL,
    cut_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

SELECT guard_control_table('log_cuts');
