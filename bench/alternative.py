"""The obvious alternative, well made: FastAPI, uvicorn and asyncpg, one transaction and row lock a request."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Annotated, Any, Literal
from uuid import UUID

import asyncpg
import uvicorn
from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel, Field

SCHEMA = """
CREATE TABLE IF NOT EXISTS users (id uuid PRIMARY KEY, name text NOT NULL);
CREATE TABLE IF NOT EXISTS accounts (
    id uuid PRIMARY KEY, user_id uuid NOT NULL REFERENCES users (id),
    balance bigint NOT NULL DEFAULT 0 CHECK (balance >= 0)
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS account_tokens (
    token_hash bytea PRIMARY KEY, account_id uuid NOT NULL REFERENCES accounts (id)
);
CREATE TABLE IF NOT EXISTS transactions (
    id uuid PRIMARY KEY DEFAULT uuidv7(), account_id uuid NOT NULL REFERENCES accounts (id),
    amount bigint NOT NULL CHECK (amount > 0), type text NOT NULL CHECK (type IN ('debit', 'credit')),
    balance bigint NOT NULL, idempotency_key text NOT NULL, "timestamp" timestamptz NOT NULL DEFAULT now(),
    UNIQUE (account_id, idempotency_key)
);
"""
OWNER = """
SELECT a.id, a.user_id FROM account_tokens AS t JOIN accounts AS a ON a.id = t.account_id WHERE t.token_hash = $1
"""
LOCK = "SELECT balance FROM accounts WHERE id = $1 FOR UPDATE"
POST = """
INSERT INTO transactions (account_id, amount, type, balance, idempotency_key) VALUES ($1, $2, 'credit', $3, $4)
ON CONFLICT (account_id, idempotency_key) DO NOTHING RETURNING id, amount, balance, "timestamp"
"""
FIRST = 'SELECT id, amount, balance, "timestamp" FROM transactions WHERE account_id = $1 AND idempotency_key = $2'
UPDATE = "UPDATE accounts SET balance = $2 WHERE id = $1"


class Credit(BaseModel):
    """What a client asks for."""

    user_id: UUID
    amount: Annotated[Decimal, Field(gt=0, max_digits=15, decimal_places=2)]


class Posted(BaseModel):
    """What was booked."""

    id: UUID
    account_id: UUID
    user_id: UUID
    amount: str
    type: Literal["credit"] = "credit"
    timestamp: datetime
    balance: str


def build(url: str, pool_size: int = 10) -> FastAPI:
    """Return the application on that database, whose schema it makes at start."""
    owners: dict[str, tuple[UUID, UUID]] = {}
    pool: Any = None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        nonlocal pool
        pool = await asyncpg.create_pool(url, min_size=pool_size, max_size=pool_size)
        await pool.execute(SCHEMA)
        yield
        await pool.close()

    app = FastAPI(lifespan=lifespan)

    @app.get("/ready")
    async def ready() -> bool:
        return True

    async def owner(authorization: str) -> tuple[UUID, UUID]:
        if authorization not in owners:
            token = authorization.removeprefix("Bearer ")
            row = await pool.fetchrow(OWNER, sha256(token.encode()).digest())
            if row is None:
                raise HTTPException(401, "invalid token")
            owners[authorization] = (row["id"], row["user_id"])
        return owners[authorization]

    @app.post("/credit", status_code=201)
    async def credit(
        wanted: Credit, authorization: Annotated[str, Header()], idempotency_key: Annotated[str, Header(max_length=255)]
    ) -> Posted:
        account_id, user_id = await owner(authorization)
        if wanted.user_id != user_id:
            raise HTTPException(403, "not your account")
        amount = int(wanted.amount * 100)
        async with pool.acquire() as connection, connection.transaction():
            balance = await connection.fetchval(LOCK, account_id) + amount
            row = await connection.fetchrow(POST, account_id, amount, balance, idempotency_key)
            if row is not None:
                await connection.execute(UPDATE, account_id, balance)
            else:
                row = await connection.fetchrow(FIRST, account_id, idempotency_key)
                if row["amount"] != amount:
                    raise HTTPException(409, "the key was used for another request")
        return Posted(
            id=row["id"],
            account_id=account_id,
            user_id=user_id,
            amount=money(row["amount"]),
            timestamp=row["timestamp"],
            balance=money(row["balance"]),
        )

    return app


def money(minor: int) -> str:
    """Return the decimal string of an amount that is never negative."""
    return f"{minor // 100}.{minor % 100:02}"


if __name__ == "__main__":
    uvicorn.run(build(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), access_log=False, log_level="warning")
