ALTER TABLE backfills DROP COLUMN started_at, DROP COLUMN sources, DROP COLUMN filled_through;
