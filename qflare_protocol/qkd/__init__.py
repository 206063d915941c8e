"""Quantum key distribution: keys from a key management entity (KME) over ETSI GS QKD 014 V1.1.1.

A key enters a session's root beside the post-quantum secrets and never in their place.
"""

from qflare_protocol.qkd.errors import QkdUnavailable
from qflare_protocol.qkd.etsi014 import KmeStatus, QkdKey
from qflare_protocol.qkd.kme_client import KmeClient
from qflare_protocol.qkd.policy import QkdUse

__all__ = ["KmeClient", "KmeStatus", "QkdKey", "QkdUnavailable", "QkdUse"]
