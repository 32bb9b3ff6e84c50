-- Jobs: work that is done later, once, by whichever server process takes it.

-- `fence` counts the claims: whoever holds an older one has lost the job. `final` is the refusal that ends a job for good,
-- kept before anybody is told of it, so that the job is never run again after. `completed_at` is when a job came to its
-- end, whichever that was.
CREATE TABLE jobs (
    id           uuid PRIMARY KEY,
    queue        text NOT NULL CHECK (queue <> '' AND length(queue) <= 64),
    worker       text NOT NULL CHECK (worker <> '' AND length(worker) <= 64),
    args         jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(args) = 'object'),
    state        text NOT NULL DEFAULT 'available' CHECK (state IN
                 ('available', 'scheduled', 'executing', 'retryable', 'completed', 'cancelled', 'dead')),
    priority     smallint NOT NULL DEFAULT 5 CHECK (priority BETWEEN 0 AND 9),
    attempt      integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    max_attempts integer NOT NULL CHECK (max_attempts > 0),
    timeout      float8 NOT NULL CHECK (timeout > 0),
    scheduled_at timestamptz NOT NULL DEFAULT now(),
    attempted_at timestamptz,
    completed_at timestamptz,
    leased_until timestamptz,
    fence        bigint NOT NULL DEFAULT 0 CHECK (fence >= 0),
    unique_key   text CHECK (length(unique_key) <= 255),
    unique_for   float8 CHECK (unique_for > 0),
    final        jsonb,
    errors       jsonb NOT NULL DEFAULT '[]'
                 CONSTRAINT jobs_errors_bounded CHECK (jsonb_typeof(errors) = 'array' AND jsonb_array_length(errors) <= 10),
    inserted_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT jobs_leased_while_executing CHECK ((state = 'executing') = (leased_until IS NOT NULL)),
    CONSTRAINT jobs_ended CHECK ((state IN ('completed', 'cancelled', 'dead')) = (completed_at IS NOT NULL)),
    CONSTRAINT jobs_unique_within CHECK ((unique_key IS NULL) = (unique_for IS NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- Claims go through one priority after the other, so that what is due only later is never walked through.
CREATE INDEX jobs_to_claim ON jobs (queue, priority, scheduled_at, id)
    WHERE state IN ('available', 'scheduled', 'retryable');
CREATE INDEX jobs_leased ON jobs (leased_until) WHERE state = 'executing';
CREATE INDEX jobs_by_state ON jobs (state, queue, id);
CREATE INDEX jobs_unique ON jobs (unique_key, inserted_at) WHERE unique_key IS NOT NULL;
CREATE INDEX jobs_ended_at ON jobs (state, completed_at) WHERE state IN ('completed', 'cancelled', 'dead');

CREATE FUNCTION tell_jobs_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('ledger_jobs', queue) FROM (SELECT DISTINCT queue FROM fresh) AS told;
    RETURN NULL;
END
$$;

CREATE TRIGGER jobs_inserted AFTER INSERT ON jobs REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION tell_jobs_inserted();

CREATE FUNCTION tell_job_available() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('ledger_jobs', NEW.queue);
    RETURN NULL;
END
$$;

CREATE TRIGGER jobs_available AFTER UPDATE OF state ON jobs
    FOR EACH ROW WHEN (NEW.state = 'available') EXECUTE FUNCTION tell_job_available();

-- The last instant that each periodic job was queued for, by whichever process came first.
CREATE TABLE job_slots (
    name text PRIMARY KEY,
    slot timestamptz NOT NULL
);
