-- Sessions of users, the tokens that were given out in them, and the audit log.

ALTER TABLE users ADD COLUMN verified boolean NOT NULL DEFAULT false;

-- Lists of users: newest first, and in the other orders that can be asked for.
CREATE INDEX users_by_time ON users (inserted_at DESC, id DESC);
CREATE INDEX users_by_status ON users (status, inserted_at DESC, id DESC);
CREATE INDEX users_by_role ON users (role, inserted_at DESC, id DESC);
CREATE INDEX users_by_name ON users (full_name, id);

CREATE TABLE sessions (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES users (id),
    address    text,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);

-- Whether a user has logged in from an address; and the sessions that have not ended, which may be few among many.
CREATE INDEX sessions_of_user ON sessions (user_id, address, created_at);
CREATE INDEX sessions_live ON sessions (user_id, created_at DESC, id DESC) WHERE revoked_at IS NULL;

-- One row for each pair of tokens: an access token lives as long as its session, a refresh token until it is rotated.
CREATE TABLE refresh_tokens (
    jti        uuid PRIMARY KEY,
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    access_jti uuid NOT NULL UNIQUE,
    issued_at  timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    rotated_at timestamptz
);

CREATE INDEX refresh_tokens_of_session ON refresh_tokens (session_id);
CREATE INDEX refresh_tokens_by_expiry ON refresh_tokens (expires_at);

-- Whoever remembers a credential hears when it stops, however it was stopped: `kind:id`.
CREATE OR REPLACE FUNCTION tell_token_stopped() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('ledger_tokens', 'token:' || encode(OLD.token_hash, 'hex'));
    RETURN NULL;
END
$$;

CREATE FUNCTION tell_session_stopped() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('ledger_tokens', 'session:' || OLD.id);
    RETURN NULL;
END
$$;

CREATE TRIGGER sessions_stop AFTER UPDATE OF revoked_at OR DELETE ON sessions
    FOR EACH ROW EXECUTE FUNCTION tell_session_stopped();

CREATE FUNCTION tell_user_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('ledger_tokens', 'user:' || OLD.id);
    RETURN NULL;
END
$$;

CREATE TRIGGER users_change AFTER UPDATE OF status, role, password_hash ON users
    FOR EACH ROW EXECUTE FUNCTION tell_user_changed();

CREATE TABLE audit_log (
    id             uuid PRIMARY KEY,
    at             timestamptz NOT NULL,
    until          timestamptz NOT NULL,
    event          text NOT NULL,
    reason         text,
    endpoint       text,
    actor_kind     text,
    actor_id       uuid,
    address        text,
    correlation_id text,
    count          integer NOT NULL DEFAULT 1 CHECK (count > 0),
    details        jsonb NOT NULL DEFAULT '{}'
);

CREATE INDEX audit_log_by_time ON audit_log (at DESC, id DESC);

-- One index for each filter: who looks for a rare row does not read 90 days of others.
CREATE INDEX audit_log_by_event ON audit_log (event, at DESC, id DESC);
CREATE INDEX audit_log_by_actor ON audit_log (actor_id, at DESC, id DESC) WHERE actor_id IS NOT NULL;
CREATE INDEX audit_log_by_address ON audit_log (address, at DESC, id DESC) WHERE address IS NOT NULL;
