ALTER TABLE drift_notifications DROP COLUMN tried_at;
ALTER TABLE drift_rollbacks DROP COLUMN reason;
