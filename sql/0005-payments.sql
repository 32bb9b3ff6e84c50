-- Payments: made by users, and brought to an end by records of the journal, once.

-- `seq` is the record that ended it, `transfer_id` that record's id where it moved money; `updated_at` is then the
-- record's instant. `paid_in_day` is what the account has paid in that UTC day up to and with this payment: the next one goes by
-- the last one, however many there are.
CREATE TABLE payments (
    id             uuid PRIMARY KEY,
    user_id        uuid NOT NULL,
    account_id     uuid NOT NULL,
    amount         bigint NOT NULL CHECK (amount > 0),
    direction      text NOT NULL CHECK (direction IN ('CREDIT', 'DEBIT')),
    payment_type   text NOT NULL CHECK (payment_type IN ('TRANSFER', 'PAYMENT', 'DEPOSIT', 'WITHDRAWAL')),
    description    text NOT NULL CHECK (description <> '' AND length(description) <= 255),
    status         text NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'COMPLETED', 'FAILED', 'CANCELLED')),
    posted_at      timestamptz,
    failure_reason text,
    transfer_id    uuid,
    inserted_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    seq            bigint,
    paid_in_day    numeric(38,0),
    CONSTRAINT payments_paid_when_posted CHECK (
        (status = 'COMPLETED' AND direction = 'DEBIT') = (paid_in_day IS NOT NULL)),
    CONSTRAINT payments_posted_when_completed CHECK (
        (status = 'COMPLETED') = (posted_at IS NOT NULL) AND (posted_at IS NULL) = (transfer_id IS NULL)),
    CONSTRAINT payments_failed_for_a_reason CHECK ((status = 'FAILED') = (failure_reason IS NOT NULL)),
    CONSTRAINT payments_ended_by_a_record CHECK ((status = 'PENDING') = (seq IS NULL))
);

-- What an account has paid last.
CREATE INDEX payments_of_day ON payments (account_id, seq) INCLUDE (posted_at, paid_in_day)
    WHERE status = 'COMPLETED' AND direction = 'DEBIT';
-- When the same was paid last.
CREATE INDEX payments_alike ON payments (user_id, amount, direction, description, posted_at)
    WHERE status = 'COMPLETED';
CREATE INDEX payments_of_user ON payments (user_id, inserted_at DESC, id DESC)
    INCLUDE (status, direction, payment_type);

CREATE TRIGGER payments_stay BEFORE DELETE OR TRUNCATE ON payments
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER payments_keep_their_nature
    BEFORE UPDATE OF id, user_id, account_id, amount, direction, payment_type, description, inserted_at ON payments
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE FUNCTION refuse_second_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'payment % has ended', OLD.id USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER payments_end_once BEFORE UPDATE ON payments
    FOR EACH ROW WHEN (OLD.status <> 'PENDING') EXECUTE FUNCTION refuse_second_end();
