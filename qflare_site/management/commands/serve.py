"""Run every process of one host until Ctrl-C."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from qflare_site.processes import ProcessGroup, StartFailed, free_address, tend_until_signalled


class Command(BaseCommand):
    """`manage.py serve`: migrate, start web, worker, enclave worker and beat, and keep them running."""

    help = "Run web server, worker, enclave worker and beat on this host until Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--bind", default="127.0.0.1:8000", help="host:port of the web server; port 0 picks one")
        parser.add_argument("--timeout", type=float, default=60, help="seconds to wait until the site is healthy")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until a signal; exit with 1 when the site does not come up."""
        host, _, port = options["bind"].rpartition(":")
        group = ProcessGroup(free_address(host) if port == "0" else options["bind"])
        self.stdout.write(f"Starting {', '.join(group.names)}; logs are in {group.log_dir}")
        try:
            group.start(options["timeout"])
            self._tend(group)
        except StartFailed as failure:
            raise CommandError(str(failure)) from failure
        except KeyboardInterrupt:
            pass  # Ctrl-C while starting: start() has ended what it began
        finally:
            group.stop()
            self.stdout.write("All processes have ended.")

    def _tend(self, group: ProcessGroup) -> None:
        self.stdout.write(f"QFLARE is ready at {group.url} (health: {group.url}/health). Press Ctrl-C to stop.")
        for name in tend_until_signalled(group):
            self.stdout.write(f"{name} had died and was started again; see {group.log_dir / name}.log")
