-- Who looked at which entity's values, and when (`skewless explain`).
-- depends: 0028.log-cuts

-- The secret of the keyed hash below. Only the owner reads it: ids are few, and without a secret
-- their hashes would be found by trying all of them.
CREATE TABLE entity_look_secret (
    only_row boolean PRIMARY KEY DEFAULT TRUE CHECK (only_row),
    secret bytea NOT NULL
);
INSERT INTO entity_look_secret (secret) VALUES (
    sha256(convert_to(concat(gen_random_uuid(), gen_random_uuid(), gen_random_uuid()), 'UTF8'))
);

-- One row for each look. `key_hash`: of the join keys and their values, the same in every view.
-- `as_of`: the time that was asked about; null: then.
CREATE TABLE entity_looks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    looked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    looked_by text NOT NULL,
    view_name text NOT NULL,
    version integer,
    key_hash bytea NOT NULL,
    as_of timestamptz
);
CREATE INDEX entity_looks_by_key ON entity_looks (key_hash, looked_at);

CREATE TRIGGER entity_looks_append_only
BEFORE UPDATE OR DELETE OR TRUNCATE ON entity_looks
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

SELECT guard_control_table('entity_look_secret');
SELECT guard_control_table('entity_looks');

-- `keys`: the values as texts by join key. A hash within a hash, as HMAC is made.
CREATE FUNCTION entity_look_hash(keys jsonb)
RETURNS bytea LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT sha256(secret || sha256(secret || convert_to(keys::text, 'UTF8')))
    FROM entity_look_secret
$$;

-- What may be called by whoever may look, without a right to the tables.
CREATE FUNCTION record_entity_look(
    looker text, looked_view text, looked_version integer, keys jsonb, at timestamptz
)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    INSERT INTO entity_looks (looked_by, view_name, version, key_hash, as_of)
    VALUES (looker, looked_view, looked_version, entity_look_hash(keys), at)
$$;
