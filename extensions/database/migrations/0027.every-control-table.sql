-- The claim is checked at the writes of every control table, not of those that one list named.
-- depends: 0017.project-claim 0018.time-partitions 0019.engine-verdicts 0019.refused-entities
-- depends: 0020.ingest-locks 0023.backfill-refusals 0026.backfill-chunks

-- What a migration calls for each control table that it makes; tests/test_project_claim.py walks
-- the catalogue for one that was left out.
CREATE FUNCTION guard_control_table(control regclass)
RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER check_project_claim '
        'BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s '
        'FOR EACH STATEMENT EXECUTE FUNCTION check_project_claim()', control);
END $$;

DO $$
DECLARE
    control text;
BEGIN
    FOREACH control IN ARRAY ARRAY[
        'watermarks', 'backfills', 'backfill_chunks', 'backfill_refusals', 'unpublished_rows',
        'online_epochs', 'materializations', 'late_appends', 'view_versions', 'promotions',
        'engine_verdicts', 'refused_entities', 'history_changes', 'reference_columns',
        'stream_offsets', 'stream_stops', 'stream_sweeps', 'stream_workers', 'stream_refusals',
        'served_features', 'drift_baselines', 'drift_bindings', 'drift_floors', 'drift_runs',
        'drift_incidents', 'drift_notifications', 'drift_rollbacks', 'audit_runs'] LOOP
        PERFORM guard_control_table(control::regclass);
    END LOOP;
END $$;
