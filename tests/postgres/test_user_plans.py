"""How the database goes about a deletion: by index, though it stands in the writer's batch."""

from __future__ import annotations

import re
from typing import Any

import pytest
from twisted.internet.defer import ensureDeferred

from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor
from tests.postgres.people import people_of
from tests.postgres.test_plans import plan

MANY = 20_000


def fill(house: House) -> None:
    """Make many users, each with an account, a token and two sessions, without any statistics."""
    house.sql(
        f"""ALTER TABLE users SET (autovacuum_enabled = off);
            ALTER TABLE accounts SET (autovacuum_enabled = off);
            ALTER TABLE account_tokens SET (autovacuum_enabled = off);
            ALTER TABLE sessions SET (autovacuum_enabled = off);
            INSERT INTO users (id, email, full_name, password_hash)
            SELECT gen_random_uuid(), n || '@example.com', 'Name', '' FROM generate_series(1, {MANY}) AS n;
            INSERT INTO accounts (id, user_id, asset, type)
            SELECT gen_random_uuid(), id, 'USD/2', 'CHECKING' FROM users;
            INSERT INTO account_tokens (token_hash, account_id) SELECT sha256(id::text::bytea), id FROM accounts;
            INSERT INTO sessions (id, user_id) SELECT gen_random_uuid(), id FROM users, generate_series(1, 2)"""
    )


@pytest.mark.parametrize("analysed", [False, True])
@on_reactor
async def test_a_deletion_is_done_by_index(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch, analysed: bool
) -> None:
    async with House(database_url, database_server) as house, people_of(house) as people:
        fill(house)
        if analysed:
            house.sql("ANALYZE")
        root = await people.user("root", "admin")
        ids = [row[0] for row in house.sql("SELECT id::text FROM users WHERE role = 'user' LIMIT 3")]
        session, seen = house.store.session, list[tuple[str, Any]]()
        render = session.render

        def spy(sql: str, parameters: Any) -> bytes:
            seen.extend((part.strip(), parameters) for part in sql.split(";") if part.strip().startswith("EXECUTE"))
            return render(sql, parameters)

        monkeypatch.setattr(session, "render", spy)
        deletions = [ensureDeferred(people.users.delete(people.caller(root), user_id)) for user_id in ids]
        told = await house.gather(deletions)
        monkeypatch.undo()
        assert [getattr(one, "status", one) for one in told] == ["DELETED"] * 3
        assert {sql.split()[1] for sql, _ in seen} >= {
            "write_deleted_users",
            "write_ended_sessions",
            "write_ended_tokens",
        }
        await session.run("SET plan_cache_mode = force_generic_plan")
        plans = [await plan(session, sql, parameters) for sql, parameters in seen]
        assert all("Seq Scan" not in text for text in plans), "\n\n".join(plans)
        for index in ("users_pkey", "accounts_of_user", "sessions_(?:live|of_user)", "account_tokens_of_account"):
            assert any(re.search(index, text) for text in plans), "\n\n".join(plans)
        assert house.sql("SELECT count(*) FROM sessions WHERE revoked_at IS NOT NULL") == [(6,)]
        assert house.sql("SELECT count(*) FROM account_tokens WHERE revoked_at IS NOT NULL") == [(3,)]
        assert house.sql("SELECT count(*) FROM accounts WHERE status = 'CLOSED'") == [(3,)]
