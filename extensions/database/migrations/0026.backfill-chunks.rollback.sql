ALTER TABLE backfills DROP COLUMN engine;
DROP TABLE backfill_chunks;
