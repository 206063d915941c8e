"""Whose address counts, and who may say so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_site.client_address import client_address, first_untrusted

PROXIES = ["10.0.0.0/8", "fd00::/8"]


@pytest.mark.parametrize(
    ("hops", "expected"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["10.0.0.1", "203.0.113.9"], "203.0.113.9"),
        (["10.0.0.1", "10.0.0.2", "203.0.113.9", "198.51.100.7"], "203.0.113.9"),
        (["203.0.113.9", "10.0.0.1"], "203.0.113.9"),
        (["10.0.0.1", "not an address", "198.51.100.7"], "10.0.0.1"),
        (["10.0.0.1", "10.0.0.2"], "10.0.0.2"),
        (["fd00::1", "2001:db8::5"], "2001:db8::5"),
        ([""], ""),
    ],
)
def test_the_nearest_untrusted_hop_is_the_client(hops, expected):
    assert first_untrusted(hops, PROXIES) == expected


@given(st.text(max_size=60))
def test_whatever_a_stranger_writes_the_peer_address_stands(rf_header):
    assert first_untrusted(["203.0.113.9", *rf_header.split(",")], PROXIES) == "203.0.113.9"


def test_without_proxies_the_header_is_ignored(rf, settings):
    settings.QFLARE_TRUSTED_PROXIES = []
    request = rf.get("/", REMOTE_ADDR="203.0.113.9", HTTP_X_FORWARDED_FOR="198.51.100.7")
    assert client_address(request) == "203.0.113.9"


def test_with_a_proxy_the_hop_it_saw_counts(rf, settings):
    settings.QFLARE_TRUSTED_PROXIES = PROXIES
    request = rf.get("/", REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_FOR="1.1.1.1, 198.51.100.7")
    assert client_address(request) == "198.51.100.7"
