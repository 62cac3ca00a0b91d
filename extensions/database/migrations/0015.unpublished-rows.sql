-- Rows of a log that are not online although the published watermark lies past them.
-- depends: 0008.stream-refusals

-- Written in the transaction that logged rows of [range_start, range_end] behind the published
-- watermark (a backfill); whoever publishes the view deletes what it has published.
CREATE TABLE unpublished_rows (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    view_name text NOT NULL,
    version integer NOT NULL,
    range_start timestamptz NOT NULL,
    range_end timestamptz NOT NULL
);
