"""The address a request came from, believing `X-Forwarded-For` only as far as trusted proxies wrote it."""

import ipaddress
from collections.abc import Iterable

from django.conf import settings
from django.http import HttpRequest


def client_address(request: HttpRequest) -> str:
    """Return the nearest address in the chain of hops that is not one of `QFLARE_TRUSTED_PROXIES`.

    Every hop appends the peer it saw, so the chain is read from the right; what stands left of the
    first untrusted address was written by a stranger.
    """
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR", "")
    hops = [hop.strip() for hop in forwarded.split(",") if hop.strip()] + [request.META.get("REMOTE_ADDR", "")]
    return first_untrusted(reversed(hops), settings.QFLARE_TRUSTED_PROXIES)


def is_trusted_proxy(address: str) -> bool:
    """Return whether an address, such as that of a request's peer, is one of `QFLARE_TRUSTED_PROXIES`."""
    try:
        return _is_within(ipaddress.ip_address(address), _networks(settings.QFLARE_TRUSTED_PROXIES))
    except ValueError:
        return False


def first_untrusted(hops: Iterable[str], trusted: Iterable[str]) -> str:
    """Return the first hop outside the trusted networks, or the last readable one when all are inside."""
    networks = _networks(trusted)
    seen = ""
    for hop in hops:
        try:
            address = ipaddress.ip_address(hop)
        except ValueError:
            return seen  # not an address: whoever wrote it is not a proxy of ours
        seen = str(address)
        if not _is_within(address, networks):
            return seen
    return seen


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(texts: Iterable[str]) -> list[Network]:
    return [ipaddress.ip_network(text) for text in texts]


def _is_within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)
