-- Rows that a step logged and the online store refused: the view's watermark waits for them.
-- depends: 0004.stream

-- Rows of the view's log from `since` on may be missing online. `refusals` counts, so that one
-- noted while the sweep publishes is not forgotten with those that it has seen to.
CREATE TABLE stream_refusals (
    view_name text NOT NULL,
    version integer NOT NULL,
    since timestamptz NOT NULL,
    refusals bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (view_name, version)
);
