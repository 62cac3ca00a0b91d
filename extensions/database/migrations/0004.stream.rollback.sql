DROP TABLE stream_workers;
DROP TABLE stream_sweeps;
ALTER TABLE stream_offsets
DROP COLUMN stored_through,
DROP COLUMN computed_through,
DROP COLUMN end_offset,
DROP COLUMN topic_id,
DROP COLUMN incarnation;
