-- One project per database: the control tables know no project, so a second one would take
-- another's views, watermarks and verdicts for its own.
-- depends: 0016.stale-backfills 0012.drift-outbox 0015.stops-and-references 0015.unpublished-rows
-- depends: 0010.online-epochs

CREATE TABLE project_claim (
    only_row boolean PRIMARY KEY DEFAULT TRUE CHECK (only_row),
    project text NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Whose database this is; null where nobody has claimed it. Roles need no right to the table.
CREATE FUNCTION claimed_project()
RETURNS text LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS 'SELECT project FROM project_claim';

-- Every connection of ours says its project (skewless.project); psql and others say none.
CREATE FUNCTION check_project_claim()
RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    writer text := nullif(current_setting('skewless.project', TRUE), '');
BEGIN
    IF writer IS NOT NULL AND claimed_project() <> writer THEN
        RAISE EXCEPTION 'The database % belongs to the project %, not to %.',
            current_database(), claimed_project(), writer USING ERRCODE = 'SK001';
    END IF;
    RETURN NULL;
END $$;

DO $$
DECLARE
    control text;
BEGIN
    FOREACH control IN ARRAY ARRAY[
        'watermarks', 'backfills', 'unpublished_rows', 'online_epochs', 'view_versions',
        'promotions', 'stream_offsets', 'stream_stops', 'stream_sweeps', 'drift_baselines',
        'drift_bindings', 'drift_floors', 'drift_runs', 'drift_incidents', 'drift_rollbacks',
        'audit_runs'] LOOP
        EXECUTE format(
            'CREATE TRIGGER check_project_claim BEFORE INSERT OR UPDATE OR DELETE ON %I '
            'FOR EACH STATEMENT EXECUTE FUNCTION check_project_claim()', control);
    END LOOP;
END $$;
