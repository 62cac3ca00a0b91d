-- How far a backfill has come within a range that it cuts by key as well as by time.
-- depends: 0017.project-claim 0019.engine-verdicts

-- One row for each bucket of keys that is in the log of (after_at, through_at] (of the state at
-- that time, where the two are equal), until all `buckets` are: then `backfills.done_through` says
-- so. `began`: the safe time after which its history was read. `stale`: its rows are computed
-- again, and replaced, before they count.
CREATE TABLE backfill_chunks (
    view_name text NOT NULL,
    version integer NOT NULL,
    range_start timestamptz NOT NULL,
    after_at timestamptz NOT NULL,
    through_at timestamptz NOT NULL,
    buckets integer NOT NULL,
    bucket integer NOT NULL,
    began timestamptz NOT NULL,
    stale boolean NOT NULL DEFAULT FALSE,
    done_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (view_name, version, range_start, after_at, through_at, buckets, bucket)
);

-- Which engine computed the last chunk of a range, as in `postgresql` or `duckdb 2.0.0`.
ALTER TABLE backfills ADD COLUMN engine text;

CREATE TRIGGER check_project_claim BEFORE INSERT OR UPDATE OR DELETE ON backfill_chunks
FOR EACH STATEMENT EXECUTE FUNCTION check_project_claim();
