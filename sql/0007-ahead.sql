-- What the writer decided before it held the lock stands only where nothing has come between: the journal ends with the
-- record that it went by, the instant is of this very moment, and the keys of what it refused are still free.
CREATE FUNCTION require_unchanged(head bytea, instant timestamptz, scopes uuid[], keys text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM (SELECT hash, posted_at FROM journal ORDER BY seq DESC LIMIT 1) AS last
                   WHERE last.hash = head AND last.posted_at <= instant)
       OR instant NOT BETWEEN clock_timestamp() - interval '5 s' AND clock_timestamp()
       OR EXISTS (SELECT FROM unnest(scopes, keys) AS free (scope, key) JOIN journal AS j USING (scope, key)) THEN
        RAISE EXCEPTION 'the journal has gone on' USING ERRCODE = 'serialization_failure';
    END IF;
END
$$;
