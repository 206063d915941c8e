"""Proof that the aggregation defends: attacks from the literature against every rule, on real data.

Run by `python -m bench.attacks`. Nothing here is part of the product; the rules under test are the enclave's own.
"""
