"""An anchor in a transaction of an EVM chain: the checkpoint's text is its input data, and is read back.

web3 is an extra (`requirements-anchors.txt`). The account's key is not here: the node, or a signer in front of it,
holds it and signs (`eth_sendTransaction`). The chain's signatures are classical.
"""

import json
from dataclasses import dataclass
from typing import Any

from requests.exceptions import RequestException
from web3 import HTTPProvider, Web3
from web3.exceptions import Web3Exception

from audit.anchors.interface import AnchorError

TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class EvmChain:
    """Sends each checkpoint from `account` to itself by the node at `url`; the receipt names the transaction."""

    url: str
    account: str
    provider: Any = None

    def publish(self, note: str) -> bytes:
        """Send the checkpoint and wait until it is in a block. Raises `AnchorError`."""
        try:
            chain = self._chain()
            own = chain.to_checksum_address(self.account)
            sent = chain.eth.send_transaction({"from": own, "to": own, "value": 0, "data": _body(note)})
            mined = chain.eth.wait_for_transaction_receipt(sent, timeout=TIMEOUT_SECONDS)
            place = {"transaction": sent.hex(), "block": mined["blockHash"].hex(), "chain": chain.eth.chain_id}
        except (Web3Exception, RequestException, ValueError, OSError) as error:
            raise AnchorError(f"The chain at {self.url} did not take the checkpoint: {error}") from error
        return json.dumps(place).encode()

    def verify(self, receipt: bytes, note: str) -> None:
        """Read the transaction back: its input is the checkpoint, in the block named. Raises `AnchorError`."""
        try:
            place, chain = json.loads(receipt), self._chain()
            found = chain.eth.get_transaction(place["transaction"])
            mined = chain.eth.get_transaction_receipt(place["transaction"])
            here = (chain.eth.chain_id, mined["blockHash"].hex(), mined["status"])
        except (Web3Exception, RequestException, ValueError, KeyError, TypeError, OSError) as error:
            raise AnchorError(f"The chain at {self.url} does not show the transaction: {error}") from error
        if here != (place["chain"], place["block"], 1):
            raise AnchorError("The transaction is not in the block, or on the chain, that the receipt names.")
        if bytes(found["input"]) != _body(note) or found["from"].lower() != self.account.lower():
            raise AnchorError("The transaction holds something else than this checkpoint, or is somebody else's.")

    def _chain(self) -> Web3:
        return Web3(self.provider or HTTPProvider(self.url, request_kwargs={"timeout": TIMEOUT_SECONDS}))


def _body(note: str) -> bytes:
    """Return what a checkpoint signs: origin, size and root, one a line."""
    return note.partition("\n\n")[0].encode() + b"\n"
