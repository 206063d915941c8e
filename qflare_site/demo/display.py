"""How the demo shows itself: a live picture on a terminal, plain lines elsewhere, and the closing table."""

import time
from collections import Counter
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from qflare_site.demo.report import DemoReport, RoundReport
from training.models import RoundStep

PLAIN_SECONDS = 5.0


@dataclass(frozen=True)
class Moment:
    """What the display shows now."""

    phase: str
    enrolled: int
    devices: int
    rounds: list[RoundReport]
    planned_rounds: int
    round_states: dict[str, int] = field(default_factory=dict)


class Display:
    """Shows moments; as a context manager it leaves the terminal as it was."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, transient=True, refresh_per_second=4) if console.is_terminal else None
        self._last_line, self._last_time = "", 0.0

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, sentence: str) -> None:
        """Print a sentence that stays."""
        self._console.print(sentence, highlight=False)

    def show(self, moment: Moment) -> None:
        """Show where the demo stands."""
        if self._live:
            self._live.update(_picture(moment))
            return
        line = _line(moment)
        if line != self._last_line and (
            time.monotonic() - self._last_time > PLAIN_SECONDS or _finished(moment) != _finished_in(self._last_line)
        ):
            self._console.print(line, highlight=False)
            self._last_line, self._last_time = line, time.monotonic()


def _finished(moment: Moment) -> str:
    return f"{sum(row.accuracy is not None for row in moment.rounds)} of {moment.planned_rounds} rounds"


def _finished_in(line: str) -> str:
    return next((part for part in line.split("; ") if part.endswith("rounds")), "")


def _line(moment: Moment) -> str:
    parts = [moment.phase, f"{moment.enrolled} of {moment.devices} devices enrolled", _finished(moment)]
    if moment.round_states:
        parts.append(", ".join(f"{count} {state}" for state, count in sorted(moment.round_states.items())))
    if known := [row.accuracy for row in moment.rounds if row.accuracy is not None]:
        parts.append(f"accuracy {known[-1]:.3f}")
    return "; ".join(parts)


def _picture(moment: Moment) -> Panel:
    done = sum(row.accuracy is not None for row in moment.rounds)
    bars = Table.grid(padding=(0, 2))
    bars.add_row(
        "devices enrolled",
        ProgressBar(moment.devices, moment.enrolled, width=40),
        f"{moment.enrolled}/{moment.devices}",
    )
    bars.add_row("rounds", ProgressBar(moment.planned_rounds, done, width=40), f"{done}/{moment.planned_rounds}")
    states = ", ".join(f"{count} {state}" for state, count in sorted(moment.round_states.items()))
    accuracies = Text(
        "accuracy  " + "  ".join(f"{row.accuracy:.3f}" for row in moment.rounds if row.accuracy is not None)
    )
    return Panel(
        Group(Text(moment.phase, style="bold"), bars, Text(f"this round  {states}"), accuracies), title="QFLARE demo"
    )


def closing_table(rounds: list[RoundReport]) -> Table:
    """Return the table of all rounds."""
    table = Table(title="Rounds", title_justify="left")
    for heading in ("round", "invited", "submitted", "accepted", "rejected and why", "held-out accuracy"):
        table.add_column(heading, justify="left" if heading.startswith("rejected") else "right")
    for step in RoundStep.ORDER:
        table.add_column(f"{step} s", justify="right")
    for row in rounds:
        why = "\n".join(f"{name}: {reason}" for name, reason in sorted(row.rejections.items())) or "none"
        accuracy = "-" if row.accuracy is None else f"{row.accuracy:.3f}"
        seconds = [f"{row.seconds[step]:.2f}" if step in row.seconds else "-" for step in RoundStep.ORDER]
        table.add_row(str(row.number), str(row.invited), str(row.submitted), str(row.accepted), why, accuracy, *seconds)
    return table


def show_report(console: Console, report: DemoReport) -> None:
    """Print the closing table and the verdict."""
    console.print(closing_table(report.rounds))
    verified = "verified" if report.log_verified else "NOT verified"
    console.print(f"Log: {report.log_entries} entries, exported and {verified} offline.", highlight=False)
    qkd = f", {report.sessions.with_qkd} with a simulated QKD key" if report.sessions.qkd_demanded else ""
    console.print(f"Sessions: {report.sessions.active}{qkd}.", highlight=False)
    memory = report.peak_memory_bytes / 2**20
    console.print(
        f"{report.wall_seconds:.1f} s, peak memory {memory:.0f} MiB, {report.profile} profile.", highlight=False
    )
    for failure in report.failures():
        console.print(f"[red]FAILED[/red] {failure}", highlight=False)
    if not report.failures():
        console.print("[green]PASSED[/green] Every poisoned update was rejected, the model learned, the log holds.")


def states_of(parts: list[str]) -> dict[str, int]:
    """Count the states of a round's participations."""
    return dict(Counter(parts))
