-- What follows from a verdict is decided in the verdict's own transaction and carried out after it.
-- depends: 0006.monitoring

-- Why a view goes back: text that names the incident, by which a second attempt knows the first.
-- Neither outcome nor error: decided, and not carried out yet (or nobody knows).
ALTER TABLE drift_rollbacks ADD COLUMN reason text;
ALTER TABLE drift_notifications ADD COLUMN tried_at timestamptz;
