-- Users, accounts, the journal and its entries.

CREATE TABLE users (
    id            uuid PRIMARY KEY,
    email         text NOT NULL CHECK (length(email) <= 255),
    full_name     text NOT NULL CHECK (length(full_name) <= 255),
    password_hash text NOT NULL,
    role          text NOT NULL DEFAULT 'user' CHECK (role IN ('user', 'support', 'admin')),
    status        text NOT NULL DEFAULT 'ACTIVE' CHECK (status IN ('ACTIVE', 'SUSPENDED', 'DELETED')),
    inserted_at   timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now()
);

-- Addresses are kept in lower case; that of a deleted user is free again.
CREATE UNIQUE INDEX users_email_taken ON users (email) WHERE status <> 'DELETED';

-- A domain, for its check is made when a value comes in, and not again with every update of a balance.
CREATE DOMAIN asset_name AS text CHECK (VALUE ~ '^[A-Z]{3}/[0-9]$');

-- Half-filled pages keep the updates of balances on the page (HOT), whatever snapshots are open.
CREATE TABLE accounts (
    id           uuid PRIMARY KEY,
    user_id      uuid REFERENCES users (id),
    name         text CHECK (length(name) <= 255),
    asset        asset_name NOT NULL,
    type         text NOT NULL CHECK (type IN ('CHECKING', 'SAVINGS', 'CREDIT', 'INVESTMENT', 'WORLD')),
    status       text NOT NULL DEFAULT 'ACTIVE'
                 CHECK (status IN ('ACTIVE', 'FROZEN', 'SUSPENDED', 'INACTIVE', 'CLOSED')),
    balance      numeric NOT NULL DEFAULT 0,
    held         numeric NOT NULL DEFAULT 0 CHECK (held >= 0),
    credit_limit bigint NOT NULL DEFAULT 0 CHECK (credit_limit >= 0),
    version      bigint NOT NULL DEFAULT 0 CHECK (version >= 0),
    created_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT accounts_within_limit CHECK (type = 'WORLD' OR balance - held + credit_limit >= 0)
) WITH (fillfactor = 50);

CREATE INDEX accounts_of_user ON accounts (user_id, id) WHERE user_id IS NOT NULL;

CREATE TABLE account_tokens (
    token_hash bytea PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);

CREATE INDEX account_tokens_of_account ON account_tokens (account_id);

-- Whoever remembers a token hears when it stops, however it was stopped.
CREATE FUNCTION tell_token_stopped() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('ledger_tokens', encode(OLD.token_hash, 'hex'));
    RETURN NULL;
END
$$;

CREATE TRIGGER account_tokens_stop AFTER UPDATE OR DELETE ON account_tokens
    FOR EACH ROW EXECUTE FUNCTION tell_token_stopped();

CREATE TABLE journal (
    seq          bigint PRIMARY KEY CHECK (seq > 0),
    id           uuid NOT NULL UNIQUE,
    kind         text NOT NULL,
    scope        uuid,
    key          text,
    reverses     uuid,
    posted_at    timestamptz NOT NULL,
    effective_at timestamptz NOT NULL,
    body         text NOT NULL,
    hash         bytea NOT NULL CHECK (length(hash) = 32),
    CONSTRAINT journal_key_in_scope CHECK ((scope IS NULL) = (key IS NULL))
);

CREATE UNIQUE INDEX journal_key ON journal (scope, key) WHERE key IS NOT NULL;

-- No foreign keys here: they would cost more than the rows themselves. Only the writer inserts, and `verify` follows
-- every reference.
CREATE TABLE transactions (
    id          uuid NOT NULL,
    account_id  uuid NOT NULL,
    seq         bigint NOT NULL,
    amount      bigint NOT NULL CHECK (amount > 0),
    type        text NOT NULL CHECK (type IN ('debit', 'credit')),
    balance     numeric NOT NULL,
    held        numeric NOT NULL,
    version     bigint NOT NULL CHECK (version > 0),
    "timestamp" timestamptz NOT NULL,
    PRIMARY KEY (account_id, version)
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is refused: what is in the ledger stays', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER journal_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON journal
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER transactions_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON transactions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER accounts_stay BEFORE DELETE OR TRUNCATE ON accounts
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER accounts_keep_their_nature BEFORE UPDATE OF id, user_id, asset, type, created_at ON accounts
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The journal has no gap: what is inserted follows the last record.
CREATE FUNCTION journal_follows() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    first bigint;
    last  bigint;
    many  bigint;
BEGIN
    SELECT min(seq), max(seq), count(*) INTO first, last, many FROM fresh;
    IF many > 0 AND (last - first + 1 <> many
                     OR (first > 1 AND NOT EXISTS (SELECT FROM journal WHERE seq = first - 1))) THEN
        RAISE EXCEPTION 'the journal would have a gap before %', last USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER journal_has_no_gap AFTER INSERT ON journal REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION journal_follows();

-- The entries of every record balance. That they do so in each asset is the writer's rule, and `verify` checks it: to
-- look up each account here would cost a third of the insert.
CREATE FUNCTION entries_balance() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    off bigint;
BEGIN
    SELECT seq INTO off FROM fresh
        GROUP BY seq HAVING sum(CASE type WHEN 'credit' THEN amount ELSE -amount END) <> 0 LIMIT 1;
    IF off IS NOT NULL THEN
        RAISE EXCEPTION 'the entries of record % do not balance', off USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER transactions_balance AFTER INSERT ON transactions REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION entries_balance();
