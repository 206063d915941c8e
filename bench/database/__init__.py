"""`python -m bench.database`: what the database costs, beside bare statements of the same size in the same run."""
