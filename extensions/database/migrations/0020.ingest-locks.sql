-- An ingest lock for each history table: a writer of one holds up no view that does not read it.
-- depends: 0018.time-partitions

-- Marks this transaction as one that stores rows of a table, until it ends. A partition's lock is
-- that of the whole table. The first number stands for every table: processes of before this
-- migration look at it alone, and those of since then only where a transaction names no table.
-- extensions/database/event_ingest.py has both numbers.
CREATE FUNCTION hold_ingest_lock_of(target regclass)
RETURNS void LANGUAGE sql AS $$
    SELECT
        pg_advisory_xact_lock_shared(7305808071010213),
        pg_advisory_xact_lock_shared(
            730580807,
            -- An oid has no sign, a lock's number has one: the same 32 bits.
            coalesce(pg_partition_root(target), target)::oid::bigint::bit(32)::integer
        )
$$;

CREATE OR REPLACE FUNCTION hold_ingest_lock()
RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- As hold_ingest_lock_of, which this must not look for: an apply worker has no search path.
    PERFORM
        pg_advisory_xact_lock_shared(7305808071010213),
        pg_advisory_xact_lock_shared(
            730580807, coalesce(pg_partition_root(tg_relid), tg_relid)::oid::bigint::bit(32)::integer
        );
    RETURN NULL;
END $$;

DO $$
BEGIN
    EXECUTE replace(
        pg_get_functiondef('note_history_change'::regproc),
        'PERFORM pg_advisory_xact_lock_shared(7305808071010213);',
        'PERFORM hold_ingest_lock_of(tg_relid::regclass);');
END $$;

-- A table without partitions is followed as well: pg_partition_tree knows nothing of it.
DO $$
BEGIN
    EXECUTE replace(
        pg_get_functiondef('follow_partitions'::regproc),
        'SELECT relid FROM pg_partition_tree(source) LOOP',
        'SELECT source UNION SELECT relid FROM pg_partition_tree(source) LOOP');
END $$;

DO $$
DECLARE
    followed record;
BEGIN
    FOR followed IN
        SELECT
            t.tgrelid::regclass AS source,
            convert_from(substring(t.tgargs FOR position('\x00'::bytea IN t.tgargs) - 1), 'UTF8')
                AS name,
            c.key
        FROM pg_trigger AS t
        CROSS JOIN LATERAL (
            SELECT replace(n.tgname, 'skewless_note_claims_', '') AS key
            FROM pg_trigger AS n
            WHERE n.tgrelid = t.tgrelid AND n.tgname LIKE 'skewless\_note\_claims\_%' LIMIT 1
        ) AS c
        WHERE t.tgname = 'skewless_note_update' AND t.tgparentid = 0
    LOOP
        PERFORM follow_partitions(followed.source, followed.name, followed.key);
    END LOOP;
END $$;
