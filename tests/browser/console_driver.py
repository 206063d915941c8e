"""Driver: an operator in a real browser runs a fleet of real devices, from the first sign-in to a suspended device.

With a folder as argument, pictures of every screen are kept there; docs/images is made so.
"""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.browser.operator import Operator, chromium
from tests.browser.trainers import initial_model_file
from tests.system.running_site import ROOT, set_up_django, site, wait_for

OLGA, PASSWORD = "olga", "correct horse battery staple"
HONEST, POISONED = "tests.browser.trainers:SteadyTrainer", "tests.browser.trainers:PoisonedTrainer"
DEVICES = 5


def create_olga() -> str:
    """Create the operator with an authenticator app; return the app's secret."""
    from allauth.core import context
    from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
    from django.http import HttpRequest

    from operator_access.roles import Role
    from operator_access.services.people import create_operator

    secret: str = generate_totp_secret()
    roles = [Role.OPERATOR, Role.SECURITY_OFFICER, Role.AUDITOR]
    request = HttpRequest()
    request.user = create_operator(OLGA, roles=roles, password=PASSWORD, actor="operator:root")
    with context.request_context(request):  # the secret is wrapped for whoever is signed in
        TOTP.activate(request.user, secret)
    return secret


def code_of(secret: str) -> str:
    """Return the code that the authenticator app shows."""
    from allauth.mfa import app_settings
    from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value

    shown: str = format_hotp_value(hotp_value(secret, int(time.time()) // app_settings.TOTP_PERIOD))
    return shown


class Fleet:
    """The devices: each enrols by the command that the console shows, then runs until the end."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._running = folder, ExitStack()

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *exception: object) -> None:
        self._running.close()

    def enrol_and_run(self, name: str, command: str, trainer: str) -> None:
        """Run the command, as shown, on a device that has its home in a folder of its own; then let it work."""
        home = self._folder / name
        home.mkdir(mode=0o700)
        program, *words = shlex.split(command)
        assert program == "qflare-edge"
        client = [sys.executable, "-m", "edge_client", "--home", str(home), "--key-file", str(home / "key")]
        subprocess.run([*client, *words], cwd=ROOT, check=True, capture_output=True, timeout=120)
        work = [*client, "run", "--trainer", trainer, "--longest-wait", "2"]
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(work, cwd=ROOT, stdout=log, stderr=log)  # noqa: S603 - our own client
        self._running.callback(_end, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(20)


def create_federation(olga: Operator, folder: Path) -> None:
    """Create a federation in the policy editor."""
    model = folder / "initial.safetensors"
    model.write_bytes(initial_model_file())
    olga.go_to("Federations")
    olga.photograph("federations-empty")
    olga.follow("New federation")
    page = olga.page
    page.get_by_label("Name", exact=True).fill("wards")
    page.get_by_label("Initial model").set_input_files(model)
    page.get_by_label("Trainer", exact=True).fill(HONEST)
    page.get_by_label("Evaluator").fill(HONEST)
    page.get_by_label("Filter, step 1").select_option("consensus-cosine")
    page.get_by_label("Minimum updates").fill("3")
    olga.photograph("new-federation")
    olga.press("Create the federation")
    olga.sees("It has had no round yet.")


def enrol_devices(olga: Operator, fleet: Fleet) -> None:
    """Issue tokens by keyboard alone, and enrol a device with each by the command that is shown."""
    olga.go_to("Enrolment")
    olga.reach_by_keyboard("link", "Issue tokens")
    olga.page.keyboard.press("Enter")
    olga.sees("The device must enrol under this name")
    olga.reach_by_keyboard("textbox", "Device name")
    olga.page.keyboard.type("ward")
    olga.reach_by_keyboard("spinbutton", "How many")
    olga.page.keyboard.press("Control+A")
    olga.page.keyboard.type(str(DEVICES))
    olga.photograph("issue-tokens")
    olga.reach_by_keyboard("button", "Issue")
    olga.page.keyboard.press("Enter")
    olga.sees("leaving this page loses them for good")
    olga.photograph("tokens-shown-once")
    commands = olga.page.locator("pre code").filter(has_text="qflare-edge enroll").all_inner_texts()
    assert len(commands) == DEVICES
    olga.page.get_by_role("button", name="Copy the command").first.click()
    olga.sees("Copied")
    assert olga.page.evaluate("navigator.clipboard.readText()") == commands[0]
    for number, command in enumerate(commands, start=1):
        fleet.enrol_and_run(f"ward-{number}", command, POISONED if number == DEVICES else HONEST)
    olga.go_to("Enrolment")
    assert olga.page.get_by_text("Used", exact=True).count() >= DEVICES
    olga.photograph("enrolment")


def watch_a_round(olga: Operator) -> None:
    """Start a round and watch it, without loading the page again, until its model is there."""
    olga.go_to("Federations")
    olga.follow("wards")
    olga.follow("Start a round")
    olga.press("Start a round")
    olga.go_to("Rounds")
    olga.follow("wards 1")
    olga.page.evaluate("window.loadedOnce = true")
    olga.sees("devices returned so far", seconds=60)
    olga.photograph("round-open")
    olga.sees("Round 1 aggregated, 5 of 5 devices returned, 1 rejected: cosine below minimum.", seconds=120)
    olga.look_over()  # what is out of sight is not asked for
    olga.sees("version 1")
    assert olga.page.evaluate("window.loadedOnce"), "the page was loaded again while the round ran"
    wait_for(lambda: olga.look_over() or olga.page.locator("[data-live]").count() == 0, "the end of the polling", 60)
    olga.photograph("round")


def look_into_the_rejected_update(olga: Operator) -> None:
    """Open what the enclave said of the poisoned update."""
    row = olga.page.get_by_role("row").filter(has_text=f"ward-{DEVICES}")
    row.get_by_role("link", name="Rejected").click()
    olga.sees("cosine-below-minimum")
    olga.photograph("rejected-update")


def suspend_the_device(olga: Operator) -> None:
    """Suspend the poisoned device with a reason, and see it refused."""
    olga.go_to("Devices")
    olga.photograph("devices")
    olga.follow(f"ward-{DEVICES}")
    olga.photograph("device")
    olga.follow("Suspend")
    olga.page.get_by_label("Reason").fill("its update was poisoned")
    olga.press("Suspend")
    olga.go_to("Devices")
    olga.sees("its update was poisoned")


def verify_the_log(olga: Operator) -> None:
    """Verify the whole log."""
    olga.go_to("Log")
    olga.photograph("log")
    olga.follow("Verify the log")
    olga.press("Verify now")
    olga.sees("The log holds.", seconds=60)
    olga.photograph("log-verified")


def look_at_every_other_screen(olga: Operator) -> None:
    """Open what was not opened yet."""
    for screen in ("Overview", "Federations", "Rounds", "Models", "Sessions", "Incidents"):
        olga.go_to(screen)
        olga.photograph(screen.lower())
    for screen in ("Operators and access", "Schedules and workers", "System"):
        olga.go_to(screen)
        olga.photograph(screen.split()[0].lower())
    olga.go_to("Federations")
    olga.follow("wards")
    olga.photograph("federation")


def be_signed_out(olga: Operator) -> None:
    """Lose the session while a screen stands open: it says so, and no panel becomes a sign-in page."""
    olga.go_to("Overview")
    olga.sees("What runs now")
    olga.page.context.clear_cookies()
    wait_for(lambda: olga.page.locator("[data-stale]").count() > 0, "the notice that a panel is out of date", 30)
    assert olga.page.get_by_label("Username").count() == 0
    olga.sees("What runs now")


def main(pictures: Path | None) -> None:
    """Play the whole story."""
    os.environ |= {"QFLARE_REQUIRE_SECOND_FACTOR": "1", "QFLARE_FRESH_SIGN_IN_SECONDS": "300"}
    set_up_django()
    with tempfile.TemporaryDirectory() as name, site() as group, Fleet(Path(name)) as fleet, ExitStack() as later:
        secret = (
            create_olga()
        )  # before the browser runs its own loop in this thread, where Django's ORM refuses to work
        browser = later.enter_context(chromium())
        olga = Operator(browser, group.url, pictures)
        olga.sign_in(OLGA, PASSWORD, code_of(secret))
        olga.sees("What runs now")
        create_federation(olga, Path(name))
        enrol_devices(olga, fleet)
        watch_a_round(olga)
        look_into_the_rejected_update(olga)
        suspend_the_device(olga)
        verify_the_log(olga)
        look_at_every_other_screen(olga)
        be_signed_out(olga)
        assert olga.complaints == []
    sys.stdout.write("an operator ran a fleet in a browser\n")


def _folder(arguments: list[str]) -> Any:
    return Path(arguments[0]) if arguments else None


if __name__ == "__main__":
    main(_folder(sys.argv[1:]))
