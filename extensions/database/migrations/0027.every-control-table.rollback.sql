DO $$
DECLARE
    control text;
BEGIN
    FOREACH control IN ARRAY ARRAY[
        'backfill_refusals', 'materializations', 'late_appends', 'engine_verdicts',
        'refused_entities', 'history_changes', 'reference_columns', 'stream_workers',
        'stream_refusals', 'served_features', 'drift_notifications'] LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS check_project_claim ON %I', control);
    END LOOP;
END $$;
DROP FUNCTION guard_control_table;
