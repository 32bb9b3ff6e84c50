-- Game users, and what of their transactions is undone.

-- The world that game users play against; its id is that of every world: uuid5(OID, 'ledger/world/USD/5').
INSERT INTO accounts (id, asset, type) VALUES ('38d3d279-b635-5d76-955e-2e8e3994c889', 'USD/5', 'WORLD')
    ON CONFLICT (id) DO NOTHING;

CREATE TABLE game_users (
    account_id uuid PRIMARY KEY REFERENCES accounts (id),
    name       text NOT NULL UNIQUE CHECK (name <> '' AND length(name) <= 255),
    status     text NOT NULL CHECK (status IN ('ACTIVE', 'DISABLED')),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The transactions themselves are found in the journal, by their key.
CREATE TABLE game_undone (
    transaction_uuid uuid NOT NULL,
    account_id       uuid NOT NULL,
    seq              bigint NOT NULL,
    PRIMARY KEY (transaction_uuid, account_id)
);
