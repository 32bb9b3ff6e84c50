"""A path without parameters hides those with some: what may be done there is its own matter."""

from __future__ import annotations

import pytest

from tests.resources.harness import Server


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/api/users/stats", "GET, HEAD, OPTIONS"),
        ("/api/users/keyset", "GET, HEAD, OPTIONS"),
        ("/api/users/admin", "OPTIONS, POST"),
        ("/api/users/01900000-0000-7000-8000-000000000001", "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("/credit", "OPTIONS, POST"),
        ("/api/profile", "GET, HEAD, OPTIONS, PUT"),
    ],
)
def test_what_is_allowed_at_a_path(server: Server, path: str, allow: str) -> None:
    refused = server.ask("PATCH", path)
    assert refused.refusal == (405, "method_not_allowed")
    assert refused.header("Allow") == allow
    permitted = server.ask("OPTIONS", path)
    assert (permitted.status, permitted.header("Allow")) == (204, allow)


def test_a_method_that_is_no_word_is_not_allowed(server: Server) -> None:
    assert server.ask("\xe9\xe9", "/api/users/stats").status in (400, 405)
