DROP TABLE genres;
DROP FUNCTION is_embedding(real[]);
DROP TABLE items;
DROP FUNCTION ensure_watch_event_partitions(timestamptz, timestamptz);
DROP TABLE watch_event_ids;
DROP TABLE watch_events;
