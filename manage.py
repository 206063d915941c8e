#!/usr/bin/env python
"""Django's command line for the QFLARE site."""

import os
import sys

from django.core.management import execute_from_command_line


def main() -> None:
    """Run the management command named on the command line under the site's settings."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "qflare_site.settings")
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
