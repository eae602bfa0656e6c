"""One browser, one page, two servers and a line to them, for all tests of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

import stip_client
from tests.support.pages import BROWSER, WIDE, Line, assert_no_toast, opened, page_process
from tests.support.parties import Server, convert, run_tool, server_process
from tests.support.waiting import PATIENCE

DEMO_MODEL = Path(stip_client.__file__).parent / "cli" / "demo_model"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Seconds that a byte takes each way: a reply then lasts long enough to be looked at.
DELAY = 0.01
TIMEOUT = 1000 * PATIENCE  # milliseconds
expect.set_options(timeout=TIMEOUT)


@pytest.fixture(scope="package")
def master_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("developer") / "master.key"
    assert run_tool("stip_keys", "new", "-o", path).returncode == 0
    return path


@pytest.fixture(scope="package")
def bundles(tmp_path_factory: pytest.TempPathFactory, master_key: Path) -> Path:
    """The demo model's bundles, made with master_key."""
    return convert(DEMO_MODEL, tmp_path_factory.mktemp("web") / "model", "--key", master_key)


@pytest.fixture(scope="package")
def server(bundles: Path) -> Iterator[Server]:
    with server_process(bundles / "server", "--allow-echo") as running:
        yield running


@pytest.fixture(scope="package")
def line(server: Server) -> Iterator[Line]:
    running = Line(server.address, lambda: 2**62, DELAY)
    yield running
    running.close()


@pytest.fixture(scope="package")
def address(bundles: Path, master_key: Path, line: Line) -> Iterator[str]:
    """Where the page is."""
    with page_process(
        *("--server", line.address), *("--bundle", bundles), *("--key", master_key)
    ) as running:
        yield running


@pytest.fixture(scope="module")  # Playwright keeps an event loop in this thread for as long
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=BROWSER)
        yield running
        running.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(viewport=WIDE)
    made.set_default_timeout(TIMEOUT)
    yield made
    made.close()


@pytest.fixture(scope="module")
def page(browser: Browser, address: str) -> Iterator[Page]:
    """One page for tests that follow each other: its model stays loaded, whatever they do.

    Gradio has shown no message of its own in the end.
    """
    with browser.new_context(viewport=WIDE) as context:
        page = opened(context.new_page(), address)
        page.set_default_timeout(TIMEOUT)
        yield page
        assert_no_toast(page)
