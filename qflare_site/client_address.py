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


def first_untrusted(hops: Iterable[str], trusted: Iterable[str]) -> str:
    """Return the first hop outside the trusted networks, or the last readable one when all are inside."""
    networks = [ipaddress.ip_network(network) for network in trusted]
    seen = ""
    for hop in hops:
        try:
            address = ipaddress.ip_address(hop)
        except ValueError:
            return seen  # not an address: whoever wrote it is not a proxy of ours
        seen = str(address)
        if not any(address in network for network in networks):
            return seen
    return seen
