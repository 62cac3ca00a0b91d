-- What was served, how it compares with what models were trained on, and what was done about it.
-- depends: 0004.stream

-- A sample of the rows that requests were answered with. One row per row of the answer. The
-- features stand in columns that are added as services come to be logged: `<key>`,
-- `request__<field>`, `<view>__version`, `<view>__as_of`, `<view>__stale`, `<view>__<feature>`.
-- A view whose value is the same in all rows of an answer stands in its first row only, once
-- for each time it was served: elsewhere its version is null.
CREATE TABLE served_features (
    served_at timestamptz NOT NULL,
    service text COLLATE "C" NOT NULL,
    request_id bigint NOT NULL,
    row_number integer NOT NULL,
    source text NOT NULL DEFAULT 'http'
) PARTITION BY RANGE (served_at);

-- Nothing is refused for want of a partition.
CREATE TABLE served_features_default PARTITION OF served_features DEFAULT;
CREATE INDEX served_features_by_service ON served_features (service, served_at);

-- Makes the partitions of the UTC days that cover [first, last]; those that exist are left alone.
CREATE FUNCTION ensure_served_partitions(first timestamptz, last timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    day timestamp := date_trunc('day', first AT TIME ZONE 'UTC');
    partition_name text;
BEGIN
    WHILE day <= last AT TIME ZONE 'UTC' LOOP
        partition_name := 'served_features_' || to_char(day, 'YYYY_MM_DD');
        IF to_regclass(partition_name) IS NULL THEN
            PERFORM pg_advisory_xact_lock(hashtext('served_features'));
            IF to_regclass(partition_name) IS NULL AND NOT EXISTS (
                SELECT FROM served_features_default
                WHERE served_at >= day AT TIME ZONE 'UTC'
                AND served_at < (day + interval '1 day') AT TIME ZONE 'UTC') THEN
                EXECUTE format(
                    'CREATE TABLE %I PARTITION OF served_features FOR VALUES FROM (%L) TO (%L)',
                    partition_name, day AT TIME ZONE 'UTC',
                    (day + interval '1 day') AT TIME ZONE 'UTC');
            END IF;
        END IF;
        day := day + interval '1 day';
    END LOOP;
END $$;

-- What a service's features looked like in a training set. Kept for ever; `baseline_id` is the
-- hash of the content.
CREATE TABLE drift_baselines (
    baseline_id text PRIMARY KEY,
    service text NOT NULL,
    versions jsonb NOT NULL,
    training_set text NOT NULL,
    content jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Which baseline a service is compared with: the one that was bound last.
CREATE TABLE drift_bindings (
    service text NOT NULL,
    baseline_id text NOT NULL REFERENCES drift_baselines,
    bound_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Floors above ordinary variation, as `skewless drift calibrate --write` found them.
CREATE TABLE drift_floors (
    service text NOT NULL,
    feature text NOT NULL,
    statistic text NOT NULL,
    warning double precision NOT NULL,
    critical double precision NOT NULL,
    set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (service, feature, statistic)
);

-- One comparison of a window [window_start, window_end) with a baseline. A run whose verdict is
-- `error` is replaced by the next one; all others stay as they are.
CREATE TABLE drift_runs (
    service text NOT NULL,
    window_start timestamptz NOT NULL,
    window_end timestamptz NOT NULL,
    baseline_id text NOT NULL REFERENCES drift_baselines,
    verdict text NOT NULL,
    requests bigint NOT NULL,
    findings jsonb NOT NULL,
    expectations jsonb,
    error text,
    finished_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (service, window_start, window_end, baseline_id)
);
CREATE INDEX drift_runs_by_end ON drift_runs (service, window_end);

-- From the first bad window to the first good one.
CREATE TABLE drift_incidents (
    incident_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    service text NOT NULL,
    severity text NOT NULL,
    opened_window timestamptz NOT NULL,
    closed_window timestamptz,
    summary text NOT NULL,
    findings jsonb NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    closed_at timestamptz
);
CREATE UNIQUE INDEX drift_incidents_open ON drift_incidents (service) WHERE closed_at IS NULL;

-- One row per message and channel: an incident is announced once and ended once. `delivered_at`
-- stays null while the channel fails.
CREATE TABLE drift_notifications (
    incident_id bigint NOT NULL REFERENCES drift_incidents,
    message text NOT NULL CHECK (message IN ('opened', 'closed')),
    channel text NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    delivered_at timestamptz,
    error text,
    PRIMARY KEY (incident_id, message, channel)
);

-- A view that drift rolled back: once per incident, with what was seen.
CREATE TABLE drift_rollbacks (
    incident_id bigint NOT NULL REFERENCES drift_incidents,
    view_name text NOT NULL,
    evidence jsonb NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    outcome text,
    error text,
    PRIMARY KEY (incident_id, view_name)
);

-- What the skew audit found.
CREATE TABLE audit_runs (
    audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    since timestamptz NOT NULL,
    until timestamptz NOT NULL,
    compared bigint NOT NULL,
    equal bigint NOT NULL,
    bugs bigint NOT NULL,
    report jsonb NOT NULL,
    finished_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
