-- Partitions of the declared history tables, by month or day.
-- depends: 0009.history-changes

-- Makes the partitions of `source` that cover [first, last]; those that exist are left alone. The
-- table is partitioned by range of one timestamptz column. `unit`: month or day, in UTC. Rows that
-- wait in the default partition, which is made as well, move to their own; that changes no history.
CREATE FUNCTION ensure_time_partitions(
    source regclass, unit text, first timestamptz, last timestamptz
)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text := (SELECT relname FROM pg_class WHERE oid = source);
    namespace text := (SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = source);
    key_column text := (
        SELECT attname FROM pg_partitioned_table INNER JOIN pg_attribute
        ON attrelid = partrelid AND attnum = partattrs[0] WHERE partrelid = source);
    default_partition regclass := (
        SELECT nullif(partdefid, 0) FROM pg_partitioned_table WHERE partrelid = source);
    step interval := CASE unit WHEN 'month' THEN interval '1 month' WHEN 'day' THEN interval '1 day' END;
    suffix text := CASE unit WHEN 'month' THEN 'YYYY_MM' ELSE 'YYYY_MM_DD' END;
    begins timestamp := date_trunc(unit, first AT TIME ZONE 'UTC');
    range_start timestamptz;
    range_end timestamptz;
    partition_name text;
    noted text := coalesce(current_setting('skewless.noted', TRUE), '');
BEGIN
    IF key_column IS NULL OR step IS NULL THEN
        RAISE EXCEPTION '% is not partitioned by a time, or % is neither month nor day', source, unit;
    END IF;
    WHILE begins <= last AT TIME ZONE 'UTC' LOOP
        partition_name := name || '_' || to_char(begins, suffix);
        range_start := begins AT TIME ZONE 'UTC';
        range_end := (begins + step) AT TIME ZONE 'UTC';
        begins := begins + step;
        CONTINUE WHEN to_regclass(format('%I.%I', namespace, partition_name)) IS NOT NULL;
        PERFORM pg_advisory_xact_lock(hashtext('ensure_time_partitions ' || name));
        IF default_partition IS NULL THEN
            EXECUTE format('CREATE TABLE IF NOT EXISTS %I.%I PARTITION OF %s DEFAULT',
                namespace, name || '_default', source);
            default_partition := (
                SELECT partdefid FROM pg_partitioned_table WHERE partrelid = source);
        END IF;
        EXECUTE format('CREATE TABLE IF NOT EXISTS %I.%I (LIKE %s INCLUDING DEFAULTS '
            'INCLUDING CONSTRAINTS INCLUDING GENERATED)',
            namespace, partition_name, source);
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_inherits
            WHERE inhrelid = to_regclass(format('%I.%I', namespace, partition_name)));
        PERFORM set_config('skewless.noted', 'on', TRUE);
        EXECUTE format(
            'WITH moved AS (DELETE FROM %s WHERE %I >= %L AND %I < %L RETURNING %s) '
            'INSERT INTO %I.%I (%s) OVERRIDING SYSTEM VALUE SELECT * FROM moved',
            default_partition, key_column, range_start, key_column, range_end,
            written_columns(source), namespace, partition_name, written_columns(source));
        PERFORM set_config('skewless.noted', noted, TRUE);
        EXECUTE format('ALTER TABLE %s ATTACH PARTITION %I.%I FOR VALUES FROM (%L) TO (%L)',
            source, namespace, partition_name, range_start, range_end);
        PERFORM follow_partitions(source, name, name);
    END LOOP;
END $$;

-- The columns that can be written, quoted and separated by commas.
CREATE FUNCTION written_columns(source regclass)
RETURNS text LANGUAGE sql STABLE
RETURN (
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = source AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
);

-- A trigger before a row cannot look at generated columns, which a declared table may have.
DO $$
BEGIN
    EXECUTE replace(
        pg_get_functiondef('follow_history'::regproc), 'BEFORE UPDATE ON', 'AFTER UPDATE ON');
END $$;
