"""Headless Chromium as the tests drive it."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from typing import Any, Self

from playwright.sync_api import Browser, BrowserContext, Page

from tests.e2e.product import PASSWORD

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
]


CANDIDATES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "/snap/bin/chromium")


@cache
def chromium_path() -> str:
    """A browser that starts, the one that CLOUDOPS_TEST_CHROMIUM names first (script/lib.sh looks in the same order).

    Ubuntu's chromium-browser may be only a script that asks for the snap. Raises when there is none, as a browser
    test must never be skipped.
    """
    for name in filter(None, (os.environ.get("CLOUDOPS_TEST_CHROMIUM"), *CANDIDATES)):
        if path := shutil.which(name):
            asked = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
            if asked.stdout.startswith(("Chromium", "Google Chrome")):
                return path
    raise RuntimeError("No Chromium starts here. script/test installs one, or says what to do: script/test e2e")


def launch_options() -> dict[str, Any]:
    """What Playwright starts."""
    return {"executable_path": chromium_path(), "headless": True, "args": ARGUMENTS}


class Person:
    """Somebody with a browser of their own. Errors that pages write to the browser's console fail the test."""

    def __init__(self, browser: Browser, url: str, username: str, **options: Any) -> None:
        self._use(browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options}), url, username)

    @classmethod
    def in_context(cls, context: BrowserContext, url: str, username: str) -> Self:
        """In a browser that the caller started and closes."""
        self = cls.__new__(cls)
        self._use(context, url, username)
        return self

    def _use(self, context: BrowserContext, url: str, username: str) -> None:
        self.url = url
        self.username = username
        self.context = context
        self.context.set_default_timeout(15_000)
        self.complaints: list[str] = []
        self.context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        self.context.on(
            "console", lambda message: self.complaints.append(message.text) if message.type == "error" else None
        )

    def sign_in(self) -> Page:
        """Signs in through the form and returns the page it leads to."""
        page = self.context.new_page()
        page.goto(f"{self.url}/")
        page.get_by_label("Username").fill(self.username)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in", exact=True).click()
        page.wait_for_url(lambda url: "/login/" not in url)
        return page

    def close(self) -> None:
        self.context.close()
