-- What a backfill read, and since when: history that changed afterwards makes it stale.
-- depends: 0009.history-changes

-- `sources`: the history tables that the computation read. `started_at`: the safe time at which
-- the oldest of the range's chunks was computed. A note in `history_changes` of one of these
-- tables, later than `started_at`, makes the range incomplete from the arrival that it claims.
-- `filled_through`: how far the range was ever filled; a backfill that replaces stale rows takes
-- `done_through` back and leaves what lies between the two stale until it has come there again.
-- All are null for ranges of before this migration: of those it is not known.
ALTER TABLE backfills
ADD COLUMN started_at timestamptz,
ADD COLUMN sources text[],
ADD COLUMN filled_through timestamptz;
