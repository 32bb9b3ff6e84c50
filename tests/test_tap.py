"""What twistd's side of the server does to its process."""

from __future__ import annotations

import resource

import pytest

from ledger import tap


@pytest.mark.parametrize("refusal", [None, ValueError("current limit exceeds maximum limit"), OSError(22, "no")])
def test_the_limit_of_open_files_is_raised_where_that_can_be(
    monkeypatch: pytest.MonkeyPatch, refusal: Exception | None
) -> None:
    asked: list[tuple[int, int]] = []

    def setrlimit(_: int, limits: tuple[int, int]) -> None:
        asked.append(limits)
        if refusal is not None:
            raise refusal

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 9_000))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    tap._allow_many_sockets()
    assert asked == [(9_000, 9_000)]
