-- Holds, reversals, backdated entries, closed periods.

-- A hold's id is that of the record that opened it; `seq` is the record that changed it last.
CREATE TABLE holds (
    id          uuid PRIMARY KEY,
    account_id  uuid NOT NULL,
    amount      bigint NOT NULL CHECK (amount > 0),
    captured    bigint NOT NULL DEFAULT 0,
    status      text NOT NULL CHECK (status IN ('open', 'captured', 'voided', 'expired')),
    expires_at  timestamptz,
    description text,
    created_at  timestamptz NOT NULL,
    seq         bigint NOT NULL,
    CONSTRAINT holds_captured_within CHECK (captured BETWEEN 0 AND amount)
);

CREATE INDEX holds_of_account ON holds (account_id, id DESC);
CREATE INDEX holds_open ON holds (account_id, expires_at) WHERE status = 'open';
CREATE INDEX holds_due ON holds (expires_at) WHERE status = 'open' AND expires_at IS NOT NULL;

-- How much of a transfer has been given back.
CREATE TABLE reversed_transfers (
    transfer_id uuid PRIMARY KEY,
    amount      numeric NOT NULL CHECK (amount > 0),
    seq         bigint NOT NULL
);

CREATE INDEX journal_reversals ON journal (reverses, seq) WHERE reverses IS NOT NULL;

-- Entries that count from before they were booked; `amount` is below zero for a debit.
CREATE TABLE backdated_entries (
    account_id   uuid NOT NULL,
    effective_at timestamptz NOT NULL,
    version      bigint NOT NULL,
    amount       bigint NOT NULL CHECK (amount <> 0),
    posted_at    timestamptz NOT NULL,
    PRIMARY KEY (account_id, effective_at, version)
);

CREATE INDEX backdated_entries_by_booking ON backdated_entries (account_id, posted_at) INCLUDE (effective_at, amount);

-- Nothing counts from before the latest `until` any more.
CREATE TABLE closed_periods (
    until timestamptz PRIMARY KEY,
    seq   bigint NOT NULL
);
