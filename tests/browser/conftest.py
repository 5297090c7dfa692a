"""A real Chromium, and a server that holds the sample evening. `make test-browser` installs both."""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import APP_ID, Server, run
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
SCREENSHOTS = Path(__file__).parent.parent / "screenshots"
SAMPLE = Path(__file__).parent.parent.parent / "data" / "sample-callbacks.jsonl"
ZONE = "Europe/Berlin"
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.fail("there is no chromium here: make test-browser installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("browser") / "data"
    done = run("import", str(SAMPLE), "--sdk-app-id", APP_ID, "--data", str(data))
    assert done.returncode == 0, done.stderr
    with Server(data) as server:
        yield server


class Opener:
    """Opens pages, and notes whatever their consoles say: errors of scripts, refused resources, broken policies."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.url = url
        self.said: list[str] = []
        self._browser = browser
        self._contexts: list[BrowserContext] = []

    def __call__(self, path: str = "/", *, width: int = 1280, height: int = 900, **options: Any) -> Page:
        """Open a path in a context of its own; `options` are Playwright's: color_scheme, timezone_id."""
        place = {"timezone_id": ZONE, "locale": "en-GB"}
        context = self._browser.new_context(
            base_url=self.url, viewport={"width": width, "height": height}, **place | options
        )
        context.set_default_timeout(15_000)
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: self.said.append(f"dialog: {dialog.message}"))
        page.goto(path)
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def show(browser: Browser, server: Server) -> Iterator[Opener]:
    """Opens pages of the server; at the end no console may have said anything."""
    opener = Opener(browser, server.url)
    yield opener
    opener.close()
    assert opener.said == []


def import_lines(data: Path, bodies: Iterable[bytes]) -> None:
    """Put callbacks into the log of a data directory."""
    done = run("import", "-", "--sdk-app-id", APP_ID, "--data", str(data), stdin=b"\n".join(bodies))
    assert done.returncode == 0, done.stderr


def keep_picture(page: Page, name: str) -> None:
    """A screenshot to be looked at."""
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
