"""`qflare`: the operator API from a shell, for people and, with `--json`, for their scripts."""
