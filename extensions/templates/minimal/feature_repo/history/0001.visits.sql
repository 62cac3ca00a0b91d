-- One visit. Later changes of the table go into files of their own: 0002.….sql.
CREATE TABLE visits (
    visit_id text COLLATE "C" NOT NULL,
    visitor_id text COLLATE "C" NOT NULL,
    page text COLLATE "C" NOT NULL,
    visited_at timestamptz NOT NULL,
    -- When the store could know it: by the database's clock.
    ingested_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- For one visitor's visits, and for the range of each time that refreshes ask for.
CREATE INDEX visits_by_visitor ON visits (visitor_id, visited_at);
CREATE INDEX visits_by_visited_at ON visits (visited_at);
CREATE INDEX visits_by_ingested_at ON visits (ingested_at);
