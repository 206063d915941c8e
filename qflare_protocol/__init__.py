"""QF/1: the wire protocol of QFLARE, its cryptography and its proofs.

`docs/protocol.md` is normative; this package implements it for the server, the sealed enclave
process, the edge client and the offline verifier alike.
"""

PROTOCOL = "QFLARE/1"
