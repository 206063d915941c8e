"""How times are written for operators: ISO 8601 order, to the second, in UTC."""
