-- Servers learn of a change in Feast's registry when it is committed; polling stands behind.
-- depends: 0004.stream

CREATE FUNCTION notify_registry_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('skewless_registry', '');
    RETURN NULL;
END $$;

-- Feast makes its tables when it first connects, which may be later than this: each server calls
-- this function when it starts. Returns how many tables tell of changes.
CREATE FUNCTION follow_registry() RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    name text;
    followed integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('skewless follow_registry'));
    FOREACH name IN ARRAY ARRAY[
        'feature_views', 'stream_feature_views', 'on_demand_feature_views', 'feature_services'
    ] LOOP
        IF to_regclass(name) IS NULL THEN
            CONTINUE;
        END IF;
        followed := followed + 1;
        IF NOT EXISTS (
            SELECT FROM pg_trigger
            WHERE tgrelid = to_regclass(name) AND tgname = 'skewless_registry_changed'
        ) THEN
            EXECUTE format(
                'CREATE TRIGGER skewless_registry_changed '
                'AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I '
                'FOR EACH STATEMENT EXECUTE FUNCTION notify_registry_changed()', name
            );
        END IF;
    END LOOP;
    RETURN followed;
END $$;
