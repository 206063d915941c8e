"""The audit log: events, hash chain, Merkle tree, checkpoints and witnesses."""
