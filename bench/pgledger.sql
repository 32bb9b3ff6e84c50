-- A ledger in PostgreSQL after pgledger's published manner, in words of our own: a balance on every account, one call
-- of a function for each transfer, and row locks in the order of ids.

CREATE TABLE accounts (
    id           bigint PRIMARY KEY,
    may_go_below boolean NOT NULL DEFAULT false,
    balance      numeric NOT NULL DEFAULT 0,
    version      bigint NOT NULL DEFAULT 0,
    CONSTRAINT accounts_covered CHECK (may_go_below OR balance >= 0)
) WITH (fillfactor = 50);

CREATE TABLE transfers (
    id         uuid PRIMARY KEY DEFAULT uuidv7(),
    giver      bigint NOT NULL REFERENCES accounts (id),
    taker      bigint NOT NULL REFERENCES accounts (id),
    amount     numeric NOT NULL CHECK (amount > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK (giver <> taker)
);

CREATE INDEX transfers_given ON transfers (giver);
CREATE INDEX transfers_taken ON transfers (taker);

CREATE TABLE entries (
    id             uuid PRIMARY KEY DEFAULT uuidv7(),
    account_id     bigint NOT NULL REFERENCES accounts (id),
    transfer_id    uuid NOT NULL REFERENCES transfers (id),
    amount         numeric NOT NULL,
    balance_before numeric NOT NULL,
    balance        numeric NOT NULL,
    version        bigint NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX entries_of_account ON entries (account_id);
CREATE INDEX entries_of_transfer ON entries (transfer_id);

CREATE FUNCTION transfer(from_id bigint, to_id bigint, total numeric) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    booked uuid;
BEGIN
    PERFORM FROM accounts WHERE id IN (from_id, to_id) ORDER BY id FOR UPDATE;
    INSERT INTO transfers (giver, taker, amount) VALUES (from_id, to_id, total) RETURNING id INTO booked;
    WITH moved AS (
        UPDATE accounts AS a SET balance = a.balance + change.amount, version = a.version + 1
        FROM (VALUES (from_id, -total), (to_id, total)) AS change (id, amount)
        WHERE a.id = change.id
        RETURNING a.id, change.amount, a.balance, a.version
    )
    INSERT INTO entries (account_id, transfer_id, amount, balance_before, balance, version)
    SELECT id, booked, amount, balance - amount, balance, version FROM moved;
    RETURN booked;
END
$$;
