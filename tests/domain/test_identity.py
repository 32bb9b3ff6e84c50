"""Names, e-mail addresses and passwords."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ledger.domain.errors import Refused
from ledger.domain.identity import check_name, check_password, minimum_password, normalise_email


@pytest.mark.parametrize("email", ["a@b", " A@B.C ", "ü@ö.de", "a+b@c", "a" * 253 + "@b", "'a\"@b"])
def test_an_address_is_trimmed_and_in_lower_case(email: str) -> None:
    assert normalise_email(email) == email.strip().lower()


@pytest.mark.parametrize(
    "email", ["", "a", "@", "a@", "@b", "a@b@c", "a b@c", "a@b\tc", "a\0@b", "a" * 254 + "@b", "a@\u2003b"]
)
def test_what_is_no_address_is_refused(email: str) -> None:
    with pytest.raises(Refused) as caught:
        normalise_email(email, field="mail")
    assert (caught.value.reason, caught.value.details) == ("invalid_email_format", {"field": "mail"})


@given(st.from_regex(r"\s*[^@\s]{1,20}@[^@\s]{1,20}\s*", fullmatch=True))
def test_normalising_is_done_once(email: str) -> None:
    assume(all(c.isspace() or c.isprintable() for c in email))
    normal = normalise_email(email)
    assert normalise_email(normal) == normal


def test_names_are_trimmed() -> None:
    assert check_name("  Ada \n") == "Ada"
    assert check_name("x" * 255 + " ") == "x" * 255


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "missing_fields"),
        (" \t", "missing_fields"),
        ("x" * 256, "invalid_name_format"),
        ("a\0b", "invalid_name_format"),
    ],
)
def test_names_have_a_length(name: str, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        check_name(name, field="full_name")
    assert caught.value.reason == reason
    assert caught.value.details["field"] == "full_name"


@pytest.mark.parametrize(("role", "minimum"), [("user", 8), ("support", 15), ("admin", 15)])
def test_passwords_are_longer_for_those_who_may_do_more(role: str, minimum: int) -> None:
    assert minimum_password(role) == minimum
    check_password("x" * minimum, role)
    check_password("ü" * 36, role)
    for password in ("x" * (minimum - 1), "ü" * 37, "x" * 73, "x" * 20 + "\0", "x" * 20 + "\ud800"):
        with pytest.raises(Refused) as caught:
            check_password(password, role)
        assert caught.value.reason == "invalid_password_format"
        assert password not in str(caught.value.details)
