"""`qflare-edge pqc-status`, and the device's choice of engines."""

import argparse
import json
import os
import sys

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc.registry import ENVIRONMENT_VARIABLE, engine_faults, parse_engines, use_engines
from qflare_protocol.status_report import read_report, report_as_map, report_lines
from qflare_protocol.suites import DEFAULT_SUITE

EXIT_SERVED, EXIT_UNAVAILABLE = 0, 4


def choose_engines() -> None:
    """Serve algorithms by the engines that the environment variable names.

    Raises `Refusal`: "malformed-message" for a choice that cannot be read or is not one of the
    candidates, "algorithm-unavailable" for an engine that is not here or fails its self-test.
    """
    try:
        use_engines(parse_engines(os.environ.get(ENVIRONMENT_VARIABLE, "")))
    except ValueError as error:
        raise Refusal("malformed-message", f"{ENVIRONMENT_VARIABLE}: {error}") from error
    faults = engine_faults()
    if faults:
        raise Refusal("algorithm-unavailable", f"{ENVIRONMENT_VARIABLE}: {' '.join(faults.values())}")


def print_pqc_status(options: argparse.Namespace) -> int:
    """Print the report for the suite named, or every suite that this device could serve."""
    report = read_report(options.suites or [DEFAULT_SUITE], DEFAULT_SUITE, with_rates=not options.no_rates)
    shown = json.dumps(report_as_map(report), indent=1) if options.json else "\n".join(report_lines(report))
    sys.stdout.write(shown + "\n")
    return EXIT_UNAVAILABLE if report.faults_in_use else EXIT_SERVED
