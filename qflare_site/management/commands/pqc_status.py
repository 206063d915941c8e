"""`manage.py pqc_status`: what serves each algorithm here."""

import json
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from qflare_protocol.pqc.status import EngineStatus, engine_status
from qflare_protocol.suites import DEFAULT_SUITE, DISPLAY_ALIASES, SUITES


class Command(BaseCommand):
    """Run every self-test and print a table, or JSON; exit 1 when one fails."""

    help = "Shows the suites, the engine that serves each algorithm, its sizes, and whether its self-test passes."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--json", action="store_true", help="print JSON for machines")

    def handle(self, *args: Any, **options: Any) -> None:
        """Test and print."""
        engines = engine_status()
        if options["json"]:
            self.stdout.write(json.dumps(_report(engines), indent=1))
        else:
            self.stdout.write("\n".join([*_suite_lines(), "", *_engine_lines(engines)]))
        failed = [engine.algorithm for engine in engines if not engine.self_test_passed]
        if failed:
            raise CommandError(f"The self-test failed for {', '.join(failed)}; nothing here uses such an engine.")


def _report(engines: list[EngineStatus]) -> dict[str, Any]:
    rows = [asdict(engine) | {"self_test_passed": engine.self_test_passed} for engine in engines]
    return {"default_suite": DEFAULT_SUITE, "suites": [asdict(suite) for suite in SUITES.values()], "engines": rows}


def _suite_lines() -> list[str]:
    lines = []
    for suite in SUITES.values():
        mark = " (default)" if suite.name == DEFAULT_SUITE else ""
        algorithms = (suite.registered_kem, suite.ephemeral_kem, suite.signature, suite.kdf, suite.aead)
        lines.append(f"Suite {suite.name}{mark}: {', '.join(map(_shown, algorithms))}")
    return lines


def _engine_lines(engines: list[EngineStatus]) -> list[str]:
    header = f"{'algorithm':28}{'kind':11}{'engine':24}{'public':>8}{'output':>8}  self-test"
    return [header, *map(_engine_line, engines)]


def _engine_line(engine: EngineStatus) -> str:
    served = f"{engine.engine} {engine.version}"
    verdict = engine.failure or "passed"
    sizes = f"{engine.public_key_bytes:>8}{engine.output_bytes:>8}"
    return f"{_shown(engine.algorithm):28}{engine.kind:11}{served:24}{sizes}  {verdict}"


def _shown(algorithm: str) -> str:
    return DISPLAY_ALIASES.get(algorithm, algorithm)
