DROP FUNCTION record_entity_look;
DROP FUNCTION entity_look_hash;
DROP TABLE entity_looks, entity_look_secret;
