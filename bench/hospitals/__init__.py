"""Four real hospitals learn together: the figures of docs/tutorials/four-hospitals.md."""
