CREATE OR REPLACE FUNCTION hold_ingest_lock()
RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(7305808071010213);
    RETURN NULL;
END $$;
DO $$
BEGIN
    EXECUTE replace(
        pg_get_functiondef('note_history_change'::regproc),
        'PERFORM hold_ingest_lock_of(tg_relid::regclass);',
        'PERFORM pg_advisory_xact_lock_shared(7305808071010213);');
END $$;
DO $$
BEGIN
    EXECUTE replace(
        pg_get_functiondef('follow_partitions'::regproc),
        'SELECT source UNION SELECT relid FROM pg_partition_tree(source) LOOP',
        'SELECT relid FROM pg_partition_tree(source) LOOP');
END $$;
DROP FUNCTION hold_ingest_lock_of;
