"""The report of `manage.py pqc_status` and `qflare-edge pqc-status`: algorithms, engines, rates and suites."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

from qflare_protocol.pqc.rates import measure_rates
from qflare_protocol.pqc.status import EngineStatus, engine_status
from qflare_protocol.suites import DISPLAY_ALIASES, SUITES, unavailable_suites


@dataclass(frozen=True)
class StatusReport:
    """Everything that is shown: `rates` by algorithm and operation, `faults` by suite that cannot be served."""

    default_suite: str
    suites_in_use: tuple[str, ...]
    engines: list[EngineStatus]
    faults: dict[str, str]
    rates: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def faults_in_use(self) -> dict[str, str]:
        """The suites in use that cannot be served, each with the reason."""
        return {name: self.faults[name] for name in self.suites_in_use if name in self.faults}


def read_report(suites_in_use: Collection[str], default_suite: str, *, with_rates: bool) -> StatusReport:
    """Test every engine that serves an algorithm and, where wanted, measure its rates (some 8 seconds)."""
    engines = engine_status()
    served = [engine.algorithm for engine in engines if engine.self_test_passed] if with_rates else []
    return StatusReport(
        default_suite=default_suite,
        suites_in_use=tuple(suites_in_use),
        engines=engines,
        faults=unavailable_suites(dict.fromkeys([*SUITES, *suites_in_use])),
        rates={algorithm: measure_rates(algorithm) for algorithm in served},
    )


def report_as_map(report: StatusReport) -> dict[str, Any]:
    """Return the report as a map for JSON."""
    return {
        "default_suite": report.default_suite,
        "suites": [
            asdict(suite) | {"in_use": name in report.suites_in_use, "fault": report.faults.get(name)}
            for name, suite in SUITES.items()
        ],
        "unknown_suites": [name for name in report.suites_in_use if name not in SUITES],
        "engines": [
            asdict(engine)
            | {"self_test_passed": engine.self_test_passed, "per_second": report.rates.get(engine.algorithm)}
            for engine in report.engines
        ],
    }


def report_lines(report: StatusReport) -> list[str]:
    """Return the report as tables for people."""
    header = f"{'algorithm':30}{'engine':22}{'private':>8}{'public':>9}{'output':>8}{'secret':>8}  self-test"
    lines = [header, *map(_engine_line, report.engines)]
    if report.rates:
        lines += ["", f"{'per second':30}{'keygen':>10}{'encap/sign':>12}{'decap/verify':>14}"]
        lines += [_rate_line(algorithm, rates) for algorithm, rates in report.rates.items()]
    lines += ["", f"{'candidates':30}(the first that is here serves, unless QFLARE_PQC_ENGINES names another)"]
    lines += map(_candidates_line, report.engines)
    lines += ["", f"{'suite':12}{'state':12}algorithms"]
    return lines + [_suite_line(report, name) for name in dict.fromkeys([*SUITES, *report.suites_in_use])]


def _engine_line(engine: EngineStatus) -> str:
    served = f"{engine.engine} {engine.version}" if engine.engine else "none"
    sizes = f"{engine.private_key_bytes:>8}{engine.public_key_bytes:>9}{engine.output_bytes:>8}"
    secret = "" if engine.shared_secret_bytes is None else str(engine.shared_secret_bytes)
    verdict = engine.failure or "passed"
    return f"{_shown(engine.algorithm):30}{served:22}{sizes}{secret:>8}  {verdict}"


def _rate_line(algorithm: str, rates: dict[str, float]) -> str:
    keygen, second, third = (f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}" for rate in rates.values())
    return f"{_shown(algorithm):30}{keygen:>10}{second:>12}{third:>14}"


def _candidates_line(engine: EngineStatus) -> str:
    shown = [
        candidate.engine if candidate.reason is None else f"({candidate.reason})" for candidate in engine.candidates
    ]
    return f"{_shown(engine.algorithm):30}{', '.join(shown)}"


def _suite_line(report: StatusReport, name: str) -> str:
    state = "in use" if name in report.suites_in_use else "not in use"
    if name in report.faults:
        return f"{name:12}{state:12}unavailable: {report.faults[name]}"
    mark = " (default)" if name == report.default_suite else ""
    return f"{name:12}{state:12}{', '.join(map(_shown, SUITES[name].algorithms))}{mark}"


def _shown(algorithm: str) -> str:
    return DISPLAY_ALIASES.get(algorithm, algorithm)
