"""Amounts: text to minor units and back, exactly, and everything that is no amount."""

from __future__ import annotations

import ast
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ledger.domain
from ledger.domain.errors import Refused
from ledger.domain.money import MAX_AMOUNT, Asset, asset_named, asset_of, format_amount, parse_amount
from tests.strategies import examples

scales = st.integers(0, 9)


@given(st.integers(1, MAX_AMOUNT), scales)
@examples(300)
def test_what_is_formatted_parses_to_the_same(minor: int, scale: int) -> None:
    assert parse_amount(format_amount(minor, scale), scale, MAX_AMOUNT) == minor


@given(st.integers(-(10**40), 10**40), scales)
@examples(300)
def test_the_text_has_exactly_the_scale_and_the_value(minor: int, scale: int) -> None:
    text = format_amount(minor, scale)
    assert Fraction(text) == Fraction(minor, 10**scale)
    assert len(text.partition(".")[2]) == scale
    assert ("." in text) == (scale > 0)


def outcome(text: str, scale: int) -> int | Refused:
    """The minor units, or the refusal."""
    try:
        return parse_amount(text, scale, MAX_AMOUNT)
    except Refused as refused:
        return refused


@given(st.from_regex(r"0{0,3}[0-9]{1,12}(\.[0-9]{1,4})?", fullmatch=True), st.integers(0, 4))
@examples(300)
def test_a_plain_decimal_is_taken_exactly_or_refused(text: str, scale: int) -> None:
    minor = outcome(text, scale)
    if not isinstance(minor, Refused):
        assert Fraction(minor, 10**scale) == Fraction(text)
    elif len(text.partition(".")[2]) > scale:
        assert minor.reason == "invalid_amount_format"
    else:
        assert minor.reason == "negative_amount"
        assert Fraction(text) == 0


@given(st.text(max_size=80))
@examples(500)
def test_any_text_is_an_amount_or_is_refused_for_a_reason(text: str) -> None:
    minor = outcome(text, 2)
    if isinstance(minor, Refused):
        assert minor.reason in ("invalid_amount_format", "negative_amount", "amount_exceeds_limit")
        assert minor.details["field"] == "amount"
    else:
        assert 0 < minor <= MAX_AMOUNT


NO_AMOUNTS = (
    *("", " ", "1 ", " 1", "+1", "--1", "1.", ".5", "1,0", "1_000", "1e2", "1E2", "0x10", "NaN", "nan", "Infinity"),
    *("-", "1.000", "1\n", "\n1", "1\0", "١", "１", "1.٢", "½", "1.0.0", "0" * 65, "null", "true"),
)


@pytest.mark.parametrize("text", NO_AMOUNTS)
def test_what_is_no_plain_decimal_within_the_scale(text: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_amount(text, 2, MAX_AMOUNT, field="price")
    assert refused.value.reason == "invalid_amount_format"
    assert refused.value.details["field"] == "price"


@pytest.mark.parametrize("text", ["0", "0.00", "-0", "-1", "-0.01", "-99999999999999999999"])
def test_zero_and_less(text: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_amount(text, 2, MAX_AMOUNT)
    assert refused.value.reason == "negative_amount"


def test_the_limit_itself_is_allowed() -> None:
    assert parse_amount("10.00", 2, 1000) == 1000
    with pytest.raises(Refused) as refused:
        parse_amount("10.01", 2, 1000)
    assert refused.value.reason == "amount_exceeds_limit"
    assert refused.value.details["limit"] == "10.00"


@pytest.mark.parametrize(("currency", "scale"), [("USD", 2), ("EUR", 2), ("JPY", 0), ("KWD", 3), ("CLF", 4)])
def test_the_scale_is_that_of_iso_4217(currency: str, scale: int) -> None:
    asset = asset_of(currency)
    assert asset == Asset(currency, scale)
    assert asset_named(asset.name) == asset


@pytest.mark.parametrize("currency", ["", "usd", "US", "USDX", "ZZZ", "XAU", "US\0", "840", " USD", "\ud800SD"])
def test_what_is_no_currency(currency: str) -> None:
    with pytest.raises(Refused) as refused:
        asset_of(currency)
    assert refused.value.reason == "invalid_currency_format"


def test_an_asset_may_keep_another_scale() -> None:
    assert asset_named("USD/5") == Asset("USD", 5)


def test_the_domain_knows_no_float_where_money_is() -> None:
    only_time = {"breaker.py", "jobs.py", "retry.py"}  # seconds, not money
    for path in Path(ledger.domain.__path__[0]).glob("*.py"):
        if path.name in only_time:
            assert "domain.money" not in path.read_text(), path.name
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), path.name
            assert not (isinstance(node, ast.Name) and node.id in ("float", "round")), path.name
            assert not isinstance(node, ast.Div), path.name
