-- What was published, and which version of each view is the default: its pointer.
-- depends: 0004.stream

-- One row per published version; the definition never changes after it was published. States:
-- staged: being filled; live: complete, computed and served on request; active: the default;
-- retired: gone, its number is not used again. `feast_proto` is Feast's view as published.
CREATE TABLE view_versions (
    view_name text NOT NULL,
    version integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('computation', 'transform')),
    state text NOT NULL CHECK (state IN ('staged', 'live', 'active', 'retired')),
    fingerprint text NOT NULL,
    definition jsonb NOT NULL,
    feast_proto bytea NOT NULL,
    -- How far the watermark may lag: the freshness of the definition; null for a transform.
    budget interval,
    published_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    state_since timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Where the backfill begins that apply runs, and when the version was complete.
    fill_from timestamptz,
    filled_at timestamptz,
    -- Of a retired version: what is left is removed in this order, and noted here.
    drop_log_at timestamptz,
    online_removed_at timestamptz,
    log_dropped_at timestamptz,
    PRIMARY KEY (view_name, version)
);

-- Two versions of a view are never the default at once.
CREATE UNIQUE INDEX view_versions_active ON view_versions (view_name) WHERE state = 'active';

-- The moves of the pointers: which version was the default from when on, by whom and why. Training
-- reads it to know what was served at a label's moment. `moved_at` is strictly increasing.
CREATE TABLE promotions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    view_name text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('first', 'promote', 'rollback')),
    from_version integer,
    to_version integer NOT NULL,
    moved_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    moved_by text NOT NULL,
    reason text,
    forced boolean NOT NULL DEFAULT FALSE
);
CREATE INDEX promotions_by_view ON promotions (view_name, moved_at);

CREATE FUNCTION refuse_change()
RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', tg_table_name;
END $$;

CREATE TRIGGER promotions_append_only
BEFORE UPDATE OR DELETE OR TRUNCATE ON promotions
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- A published definition is immutable; all else about a version may change.
CREATE FUNCTION refuse_redefinition()
RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% v% is published and cannot be redefined', old.view_name, old.version;
END $$;

CREATE TRIGGER view_versions_immutable
BEFORE UPDATE ON view_versions
FOR EACH ROW WHEN (
    old.definition IS DISTINCT FROM new.definition
    OR old.fingerprint IS DISTINCT FROM new.fingerprint
    OR old.kind IS DISTINCT FROM new.kind
    OR (old.state = 'retired' AND new.state <> 'retired')
)
EXECUTE FUNCTION refuse_redefinition();
