"""The device's identity while it runs: what changes in it is on disk before anybody hears of it."""

from collections.abc import Callable
from dataclasses import replace

from edge_client.key_store import DeviceIdentity, EarlierKeys
from qflare_protocol.cose import Verifier
from qflare_protocol.device_keys import DeviceKeys


class IdentityKeeper:
    """Holds the identity; each change is saved first. `save` writes the key store durably."""

    def __init__(self, identity: DeviceIdentity, save: Callable[[DeviceIdentity], None]) -> None:
        self.identity, self._save = identity, save

    def pin_server(self, server: Verifier) -> None:
        """Pin the successor of the server's identity key; the pinned one itself changes nothing."""
        if server != self.identity.identity:
            self._change(replace(self.identity, identity=server))

    def pin_log(self, key: bytes) -> None:
        """Pin the successor of the log's key; the pinned one itself changes nothing."""
        if key != self.identity.log_key:
            self._change(replace(self.identity, log_key=key))

    def keep_next_keys(self, keys: DeviceKeys) -> None:
        """Keep new keys before their registration begins."""
        self._change(replace(self.identity, next_keys=keys))

    def promote_next_keys(self, *, old_valid_until: int, now: float) -> None:
        """Make the next keys the current ones; old ones stay until their overlap ends, in Unix seconds."""
        current = self.identity
        if current.next_keys is None:
            raise ValueError("There are no next keys to promote.")
        earlier = (EarlierKeys(current.keys, old_valid_until), *current.earlier_keys)
        kept = tuple(keys for keys in earlier if keys.valid_until > now)
        self._change(replace(current, keys=current.next_keys, next_keys=None, earlier_keys=kept))

    def _change(self, identity: DeviceIdentity) -> None:
        self._save(identity)
        self.identity = identity
