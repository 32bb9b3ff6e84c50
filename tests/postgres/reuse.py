"""Databases that one test has done with, made as new for the next: that costs less than to copy the template again."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2

# Whatever is not data: a database where any of it is other than in the template is not used again. `oid` tells apart
# what was dropped and made anew; statistics would change plans.
_SHAPE = """
WITH ours AS (SELECT * FROM pg_class WHERE oid >= 16384 AND relnamespace <> 'pg_toast'::regnamespace), line AS (
    SELECT ROW(oid, relname, relnamespace, relkind, relowner, relpersistence, relnatts, reloptions, relacl)::text AS it
    FROM ours
    UNION ALL SELECT a::text FROM pg_attribute AS a JOIN ours ON ours.oid = attrelid
    UNION ALL SELECT ROW(indexrelid, indisunique, indisvalid, indisready, indkey, indpred)::text
    FROM pg_index JOIN ours ON ours.oid = indexrelid
    UNION ALL SELECT t::text FROM pg_trigger AS t
    UNION ALL SELECT c::text FROM pg_constraint AS c
    UNION ALL SELECT d::text FROM pg_attrdef AS d
    UNION ALL SELECT p::text FROM pg_proc AS p WHERE oid >= 16384
    UNION ALL SELECT ROW(oid, typname)::text FROM pg_type WHERE oid >= 16384
    UNION ALL SELECT n::text FROM pg_namespace AS n WHERE nspname NOT LIKE 'pg\\_%temp\\_%'
    UNION ALL SELECT r::text FROM pg_rewrite AS r WHERE oid >= 16384
    UNION ALL SELECT e::text FROM pg_event_trigger AS e
    UNION ALL SELECT e::text FROM pg_extension AS e
    UNION ALL SELECT ROW(starelid, staattnum)::text FROM pg_statistic JOIN ours ON ours.oid = starelid
    UNION ALL SELECT ROW(datallowconn, datconnlimit, datacl)::text FROM pg_database WHERE datname = current_database()
    UNION ALL SELECT s::text FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = setdatabase
    WHERE datname = current_database()
)
SELECT md5(string_agg(it, chr(10) ORDER BY it)) FROM line
"""
_OTHERS = """
SELECT bool_and(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
# Tables with anything in them, be it dead rows, and those that were vacuumed: of one never looked at PostgreSQL plans
# otherwise than of an empty one.
_FILLED = """
SELECT quote_ident(relname) FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND (pg_relation_size(oid) > 0 OR reltuples >= 0)
"""


@dataclass(frozen=True)
class Original:
    """What a database is to be like: its shape, and what the migrations have put into its tables."""

    shape: str
    contents: Mapping[str, bytes]

    @classmethod
    def of(cls, url: str) -> Original:
        """What the database is like now, for the superuser's URL."""
        with _session(url) as cursor:
            return cls(_shape(cursor), {table: _content(cursor, table) for table in _filled(cursor)})

    def restore(self, url: str) -> bool:
        """Make a database like that again, whoever is still connected; False if that cannot be."""
        try:
            with _session(url) as cursor:
                return self._restored(cursor)
        except psycopg2.Error:
            return False

    def _restored(self, cursor: Any) -> bool:
        cursor.execute(_OTHERS)
        if cursor.fetchone() == (False,) or _shape(cursor) != self.shape:
            return False
        kept = {table for table, content in self.contents.items() if _content(cursor, table) == content}
        other = [table for table in _filled(cursor) if table not in kept]
        if other:
            cursor.execute("SET session_replication_role = replica")  # else triggers keep what is in the ledger there
            cursor.execute(f"TRUNCATE {', '.join(other)} RESTART IDENTITY CASCADE")
            for table, content in self.contents.items():
                if _content(cursor, table) != content:
                    cursor.copy_expert(f"COPY {table} FROM STDIN (FORMAT binary)", io.BytesIO(content))
        return True


@contextmanager
def _session(url: str) -> Iterator[Any]:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor


def _shape(cursor: Any) -> str:
    cursor.execute(_SHAPE)
    return str(cursor.fetchone()[0])


def _filled(cursor: Any) -> list[str]:
    cursor.execute(_FILLED)
    return [table for (table,) in cursor.fetchall()]


def _content(cursor: Any, table: str) -> bytes:
    into = io.BytesIO()
    cursor.copy_expert(f"COPY {table} TO STDOUT (FORMAT binary)", into)
    return into.getvalue()
