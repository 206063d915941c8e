"""Attesters: where a sealed process gets evidence of its claims, one module for each.

An attester is opened before the process is sealed and used once afterwards, when the round's keys,
which the report data depends on, have been made. Where its platform is absent the process refuses
to start: none of them falls back to another.
"""
