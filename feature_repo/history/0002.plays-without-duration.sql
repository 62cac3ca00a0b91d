-- Files of plays often have neither a duration nor how far the user came, and catalogues no date:
-- what is not said is 0, or known since ever. (The stream's messages must say it: their
-- JSON Schema.)

ALTER TABLE watch_events
ALTER COLUMN duration_ms SET DEFAULT 0,
ALTER COLUMN progress SET DEFAULT 0;
ALTER TABLE items ALTER COLUMN valid_from SET DEFAULT '1970-01-01 00:00:00+00';
