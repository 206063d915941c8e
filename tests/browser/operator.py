"""A person before a real browser: signs in, finds her way by what is written on the screen, and looks at it."""

import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
TOO_BAD = ("serious", "critical")
MOST_TABS = 120
SHOWN_IN_EVERY_WAY = ("overview", "round")
MOST_PIXELS_HIGH, COLOURS = 1400, 256
PATIENCE_MILLISECONDS = 15_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Debian's Chromium and end it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Operator:
    """One person's window on the site. What the page's scripts complain of is a failure."""

    def __init__(self, browser: Browser, url: str, pictures: Path | None = None, **options: Any) -> None:
        context = browser.new_context(base_url=url, viewport=DESKTOP, **options)
        context.set_default_timeout(PATIENCE_MILLISECONDS)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self._note(said.type, said.text))
        self._pictures, self._url = pictures, url

    def _note(self, kind: str, text: str) -> None:
        if kind == "error" and "favicon" not in text and "404" not in text:
            self.complaints.append(text)

    def sign_in(self, name: str, password: str, code: str) -> None:
        """Sign in by password and the code of an authenticator app."""
        self.page.goto("/")
        self.photograph("sign-in")
        self.page.get_by_label("Username").fill(name)
        self.page.get_by_label(re.compile("^Password")).fill(password)
        self.press("Sign in")
        self.sees("the code that your authenticator app shows")
        self.photograph("second-factor")
        self.page.get_by_label("Code").fill(code)
        self.press("Sign in")

    def press(self, name: str) -> None:
        """Press the button of that name."""
        self.page.get_by_role("button", name=name, exact=True).click()

    def follow(self, name: str) -> None:
        """Follow the first link of that name in the page, or else in the sidebar."""
        inside = self.page.locator("main, #content").get_by_role("link", name=name, exact=True)
        (inside if inside.count() else self.page.get_by_role("link", name=name, exact=True)).first.click()

    def go_to(self, screen: str) -> None:
        """Open a screen from the sidebar."""
        self.page.locator("#nav-sidebar").get_by_role("link", name=screen, exact=True).click()
        self.sees(screen)

    def sees(self, text: str | re.Pattern[str], *, seconds: float = 15) -> None:
        """Wait until the text is on the screen, without loading the page again."""
        expect(self.page.get_by_text(text).first).to_be_visible(timeout=seconds * 1000)

    def look_over(self) -> None:
        """Look at the whole page, from its end back to its beginning."""
        for place in ("document.body.scrollHeight", "0"):
            self.page.evaluate(f"window.scrollTo(0, {place})")
            self.page.wait_for_timeout(1500)

    def reach_by_keyboard(self, role: Any, name: str) -> None:
        """Press the tab key until the control has the focus; fail where it never gets it or where it shows none."""
        wanted = self.page.get_by_role(
            role, name=re.compile(f"^{re.escape(name)}")
        ).first  # what is required bears a star
        for _ in range(MOST_TABS):
            self.page.keyboard.press("Tab")
            if wanted.evaluate("element => element === document.activeElement"):
                assert wanted.evaluate("element => element.matches(':focus-visible')"), f"{name} shows no focus"
                return
        raise AssertionError(f"no tab reaches the {role} {name}")

    def photograph(self, name: str) -> None:
        """Keep a picture of the screen, and check that it is accessible, in both schemes and on a phone."""
        self.page.wait_for_load_state("networkidle")
        for scheme, size in (("dark", DESKTOP), ("light", DESKTOP), ("light", PHONE)):
            self._choose(scheme)
            self.page.set_viewport_size(size)  # type: ignore[arg-type]  # a mapping of its two members
            time.sleep(0.15)  # colours fade into each other
            self._check_accessibility(f"{name}, {scheme}, {size['width']} pixels")
            self._keep(name, scheme, size)
        self.page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]  # as above

    def _choose(self, scheme: Any) -> None:
        """Choose the colours: by the sidebar's button, or as the whole browser's where there is no sidebar."""
        self.page.emulate_media(color_scheme=scheme)
        button = self.page.get_by_role("button", name=str(scheme).capitalize(), exact=True)
        if button.count() and button.is_visible():
            button.click()
            expect(self.page.locator("html.dark")).to_have_count(1 if scheme == "dark" else 0)

    def _check_accessibility(self, where: str) -> None:
        found = [one for one in Axe().run(self.page).response["violations"] if one["impact"] in TOO_BAD]
        told = [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]
        assert not found, f"{where}: {told}"
        wide = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{where}: the page is {wide} pixels wider than the window"

    def _keep(self, name: str, scheme: str, size: dict[str, int]) -> None:
        """Keep the picture, in few colours so that it is small, if it is one that the documentation shows."""
        usual = scheme == "light" and size == DESKTOP
        if self._pictures is None or not (usual or name in SHOWN_IN_EVERY_WAY):
            return
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(MOST_PIXELS_HIGH, self._height())}
        taken = self.page.screenshot(full_page=True, clip=clip)  # type: ignore[arg-type]  # a mapping of its four members
        file = self._pictures / (f"{name}.png" if usual else f"{name}-{scheme}-{size['width']}.png")
        Image.open(io.BytesIO(taken)).convert("RGB").quantize(COLOURS).save(file, optimize=True)

    def _height(self) -> int:
        return int(self.page.evaluate("document.documentElement.scrollHeight"))
