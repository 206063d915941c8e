"""A day of a fleet's traffic and one attack for each rule, replayed to the security monitor."""
