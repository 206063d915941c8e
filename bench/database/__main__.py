"""`python -m bench.database [--server URL] [--repetitions N] [--output FILE]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.database.page import page
from bench.postgresql_site import DEFAULT_SERVER, own_site

REPETITIONS = 300


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure on a database of its own, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--server", default=DEFAULT_SERVER, help="a superuser's URL of the server (default: %(default)s)"
    )
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help="default: %(default)s")
    parser.add_argument("--output", type=Path, help="write the page there instead of printing it")
    options = parser.parse_args(arguments)
    with own_site(options.server) as url:
        from django.db import connection

        from bench.database.figures import CLEAN_UPS, measure

        figures = measure(url, options.repetitions)
        server = f"PostgreSQL {connection.pg_version // 10000}.{connection.pg_version % 10000}"
        text = page(figures, server, options.repetitions, CLEAN_UPS)
    if options.output:
        options.output.write_text(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
