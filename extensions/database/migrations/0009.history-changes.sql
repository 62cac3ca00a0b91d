-- Changes of history behind the watermarks.
-- depends: 0008.stream-refusals

-- A transaction changed a history table in a way that a search by arrival does not find: it
-- inserted rows that claim to have arrived before it (from `claimed_from` on, or earlier than
-- any row if null), or it updated, deleted or truncated rows. Written in that transaction, which
-- holds the ingest lock; so whoever sees a safe time past `changed_at` sees the rows as well.
CREATE TABLE history_changes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_table text NOT NULL,
    operation text NOT NULL CHECK (operation IN ('insert', 'update', 'delete', 'truncate')),
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    claimed_from timestamptz
);
CREATE INDEX history_changes_by_time ON history_changes (source_table, changed_at);

-- Whoever writes to a history table stores events: safe times wait for the transaction's end.
CREATE FUNCTION hold_ingest_lock()
RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- extensions/database/event_ingest.py names this number.
    PERFORM pg_advisory_xact_lock_shared(7305808071010213);
    RETURN NULL;
END $$;

-- UPDATE and DELETE (each row; the first one of a transaction writes the note) and TRUNCATE.
CREATE FUNCTION note_history_change()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    setting text := 'skewless.changed_' || tg_argv[1] || '_' || lower(tg_op);
BEGIN
    IF current_setting(setting, TRUE) IS DISTINCT FROM 'on' THEN
        PERFORM pg_advisory_xact_lock_shared(7305808071010213);
        INSERT INTO history_changes (source_table, operation) VALUES (tg_argv[0], lower(tg_op));
        PERFORM set_config(setting, 'on', TRUE);
    END IF;
    IF tg_op = 'DELETE' THEN
        RETURN old;
    ELSIF tg_op = 'UPDATE' THEN
        RETURN new;
    END IF;
    RETURN NULL;
END $$;

-- Where a claim is rounded down to, so that a transaction which goes back in time leaves some
-- notes and not one for each row.
CREATE FUNCTION rounded_claim(claim timestamptz)
RETURNS timestamptz LANGUAGE sql STABLE
RETURN CASE
    WHEN claim < now() - interval '1 day' THEN date_trunc('day', claim, 'UTC')
    WHEN claim < now() - interval '1 hour' THEN date_trunc('hour', claim, 'UTC')
    WHEN claim < now() - interval '1 minute' THEN date_trunc('minute', claim, 'UTC')
    ELSE date_trunc('second', claim, 'UTC')
END;

-- Statement triggers are not inherited: the partitions of a followed table get their own.
-- Returns how many partitions were new.
CREATE FUNCTION follow_partitions(source regclass, name text, key text)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    part regclass;
    made integer := 0;
BEGIN
    FOR part IN SELECT relid FROM pg_partition_tree(source) LOOP
        IF EXISTS (
            SELECT FROM pg_trigger
            WHERE tgrelid = part AND tgname = 'skewless_hold_ingest_lock') THEN
            CONTINUE;
        END IF;
        EXECUTE format(
            'CREATE TRIGGER skewless_hold_ingest_lock BEFORE INSERT OR UPDATE OR DELETE ON %s '
            'FOR EACH STATEMENT EXECUTE FUNCTION hold_ingest_lock()', part);
        EXECUTE format(
            'CREATE TRIGGER skewless_note_truncate BEFORE TRUNCATE ON %s '
            'FOR EACH STATEMENT EXECUTE FUNCTION note_history_change(%L, %L)', part, name, key);
        EXECUTE format(
            'ALTER TABLE %s ENABLE ALWAYS TRIGGER skewless_hold_ingest_lock, '
            'ENABLE ALWAYS TRIGGER skewless_note_truncate', part);
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

-- Makes a declared history table leave notes, whoever writes to it. `name`: as sources declare
-- it; `arrival`: its column of arrival. Idempotent; returns false for what is no table.
-- A loader that writes its own notes says SET LOCAL skewless.noted = 'on'.
CREATE FUNCTION follow_history(source regclass, name text, arrival text)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    key text := substr(md5(name || '|' || arrival), 1, 12);
    silent text := 'current_setting(''skewless.noted'', TRUE) IS DISTINCT FROM ''on''';
BEGIN
    IF (SELECT relkind FROM pg_class WHERE oid = source) NOT IN ('r', 'p') THEN
        RETURN FALSE;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('skewless follow_history'));
    -- A partition follows from the table that it belongs to, unless it is declared itself.
    IF EXISTS (
        SELECT FROM pg_trigger
        WHERE tgrelid = source AND tgname = 'skewless_note_claims_' || key) THEN
        PERFORM follow_partitions(source, name, key);
        RETURN TRUE;
    END IF;
    EXECUTE format($make$
        CREATE OR REPLACE FUNCTION %1$I.%2$I()
        RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = %1$I, pg_temp AS $body$
        DECLARE
            claim timestamptz := rounded_claim(new.%3$I);
            noted text := nullif(current_setting('skewless.claims_%4$s', TRUE), '');
        BEGIN
            IF noted IS NULL OR extract(EPOCH FROM claim)::double precision
                < noted::double precision THEN
                INSERT INTO history_changes (source_table, operation, claimed_from)
                VALUES (%5$L, 'insert', claim);
                PERFORM set_config(
                    'skewless.claims_%4$s', extract(EPOCH FROM claim)::double precision::text,
                    TRUE);
            END IF;
            RETURN NULL;
        END $body$
        $make$,
        (SELECT nspname FROM pg_namespace INNER JOIN pg_class AS c ON pg_namespace.oid = relnamespace
            WHERE c.oid = 'history_changes'::regclass),
        'note_claims_' || key, arrival, key, name);
    EXECUTE format(
        'CREATE TRIGGER %I AFTER INSERT ON %s FOR EACH ROW '
        'WHEN (new.%I <= statement_timestamp() AND %s) EXECUTE FUNCTION %I()',
        'skewless_note_claims_' || key, source, arrival, silent, 'note_claims_' || key);
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER skewless_note_update BEFORE UPDATE ON %s FOR EACH ROW '
        'WHEN (old.* IS DISTINCT FROM new.* AND %s) EXECUTE FUNCTION note_history_change(%L, %L)',
        source, silent, name, key);
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER skewless_note_delete BEFORE DELETE ON %s FOR EACH ROW '
        'WHEN (%s) EXECUTE FUNCTION note_history_change(%L, %L)', source, silent, name, key);
    -- What a replication worker applies is a change as well.
    EXECUTE format(
        'ALTER TABLE %s ENABLE ALWAYS TRIGGER %I, ENABLE ALWAYS TRIGGER skewless_note_update, '
        'ENABLE ALWAYS TRIGGER skewless_note_delete', source, 'skewless_note_claims_' || key);
    PERFORM follow_partitions(source, name, key);
    RETURN TRUE;
END $$;
