"""A real browser for the tests of pages: the machine's own Chromium or Chrome, driven by playwright.

A browser is the one thing that the tests need and pip cannot give. In CI (``CI=true``) a missing one is a
failure; elsewhere the tests of pages are skipped, and say what to install."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
APPLICATION = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
MISSING = "no browser was found; on Debian: apt-get install -y chromium. Or name one: CHROMIUM=/path/to/chrome"
QUIET = (
    "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
).split()


def find_browser() -> str | None:
    found = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), APPLICATION]
    return next((path for path in found if path and Path(path).exists()), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless browser with a fresh profile."""
    path = find_browser()
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=[*root, *QUIET])


class Watched:
    """A page, with all that it asked of a network and all that it complained of."""

    def __init__(self, page: Page):
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))

    def open(self, file: Path) -> Page:
        self.page.goto(file.as_uri())
        return self.page
