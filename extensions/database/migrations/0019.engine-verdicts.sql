-- Whether a text gives the same values in every engine, as it was found on real history.
-- depends: 0018.time-partitions

-- `fingerprint`: the definition's, so that a verdict is about a text and not about its number.
-- `verdict`: portable, not portable, or not asked. `questions`: how many both engines answered.
-- `reason` and `hint`: sentences; `example`: a question and both answers. `postgresql`,
-- `engine_version` and `prelude`: of what it holds; with others the text is asked again.
CREATE TABLE engine_verdicts (
    fingerprint text NOT NULL,
    engine text NOT NULL,
    view_name text NOT NULL,
    version integer NOT NULL,
    verdict text NOT NULL CHECK (verdict IN ('portable', 'not portable', 'not asked')),
    questions integer NOT NULL,
    reason text,
    hint text,
    example jsonb,
    postgresql text NOT NULL,
    engine_version text NOT NULL,
    prelude text NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (fingerprint, engine)
);
