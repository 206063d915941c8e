"""A fleet of virtual devices against the whole site on the services profile: `python -m bench.fleet`.

The devices run the real client with real cryptography; only their training is spared: each hands in an update
that was computed before. They live in a few generator processes, since thousands of processes fit on no machine.
"""
