"""Where requests come from: peers, and what trusted proxies say."""

from __future__ import annotations

import pytest
from twisted.web.http_headers import Headers

from ledger.domain.addresses import client_of, normal
from ledger.resources.addresses import Addresses

PROXIES = ("10.0.0.0/8", "2001:db8:1::/48", "192.0.2.1")


def of(peer: str, *lines: str, trusted: tuple[str, ...] = PROXIES) -> str:
    """The address that is found, given the lines of X-Forwarded-For."""
    headers = Headers({b"X-Forwarded-For": [line.encode("latin-1") for line in lines]} if lines else {})
    return Addresses(trusted).of(peer, headers)


@pytest.mark.parametrize("trusted", [(), PROXIES])
def test_a_peer_that_is_no_proxy_says_nothing_about_itself(trusted: tuple[str, ...]) -> None:
    assert of("198.51.100.7", "203.0.113.9", trusted=trusted) == "198.51.100.7"
    assert of("::ffff:198.51.100.7", "203.0.113.9", trusted=trusted) == "198.51.100.7"
    assert of("2001:DB8:0:0::7", "203.0.113.9", trusted=trusted) == "2001:db8::7"
    assert of("", "203.0.113.9", trusted=trusted) == ""


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["1.1.1.1, 203.0.113.9"], "203.0.113.9"),  # what stands to the left the client itself may have written
        (["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
        (["1.1.1.1,203.0.113.9 , 10.9.9.9,192.0.2.1"], "203.0.113.9"),
        (["203.0.113.9", "10.9.9.9", "2001:db8:1::5"], "203.0.113.9"),
        (["203.0.113.9:4711"], "203.0.113.9"),
        (["[2001:db8::9]:4711"], "2001:db8::9"),
        (["2001:DB8::0009%eth0"], "2001:db8::9"),
        (["::ffff:203.0.113.9"], "203.0.113.9"),
        (["10.1.1.1, 10.2.2.2"], "10.1.1.1"),  # all of them proxies: the first
        ([], "10.0.0.1"),
        ([""], "10.0.0.1"),
        (["203.0.113.9,"], "10.0.0.1"),
        (["unknown"], "10.0.0.1"),
        (["203.0.113.9, rubbish, 10.2.2.2"], "10.0.0.1"),
        (["203.0.113.9, \xff\x00"], "10.0.0.1"),
        (["9" * 5_000], "10.0.0.1"),
        (["203.0.113.256"], "10.0.0.1"),
    ],
)
def test_what_a_proxy_says(lines: list[str], found: str) -> None:
    assert of("10.0.0.1", *lines) == found
    assert of("::ffff:10.0.0.1", *lines) == found


def test_networks_of_mapped_addresses_are_those_of_the_addresses() -> None:
    assert of("10.0.0.1", "203.0.113.9", trusted=("::ffff:10.0.0.0/104",)) == "203.0.113.9"
    assert of("2001:db8::1", "203.0.113.9", trusted=("::ffff:10.0.0.0/104",)) == "2001:db8::1"
    assert of("10.0.0.1", "203.0.113.9", trusted=("::/96",)) == "10.0.0.1"


@pytest.mark.parametrize(
    ("address", "spelling", "client"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("2001:DB8:0:1:2:3:4:5", "2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("2001:db8:0:1::", "2001:db8:0:1::", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::1", "fe80::/64"),
        ("a:b", "a:b", "a:b"),
        ("", "", ""),
    ],
)
def test_one_spelling_and_one_client(address: str, spelling: str, client: str) -> None:
    assert normal(address) == spelling
    assert client_of(address) == client_of(spelling) == client
