DO $$
DECLARE
    trigger record;
BEGIN
    FOR trigger IN
        SELECT tgrelid::regclass AS source, tgname AS name FROM pg_trigger
        WHERE
            tgparentid = 0
            AND (tgname LIKE 'skewless\_note\_%' OR tgname = 'skewless_hold_ingest_lock')
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', trigger.name, trigger.source);
    END LOOP;
    FOR trigger IN
        SELECT oid::regprocedure AS source FROM pg_proc WHERE proname LIKE 'note\_claims\_%'
    LOOP
        EXECUTE format('DROP FUNCTION %s', trigger.source);
    END LOOP;
END $$;
DROP FUNCTION
follow_history, follow_partitions, rounded_claim, note_history_change, hold_ingest_lock;
DROP TABLE history_changes;
