DROP TABLE stream_offsets;
DROP TABLE backfills;
DROP TABLE watermarks;
