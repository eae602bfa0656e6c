"""The page as a process, a browser that looks at it, and a line to its server that can be cut."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from playwright.sync_api import Page

from tests.support.waiting import PATIENCE
from tests.support.wire.proxy import Proxy

BROWSER = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]
WIDE = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
PROMPT = "What is STIP?"
# Of a reply, as the line under it tells.
FINISHED = "document.querySelector('#stip-stats').innerText.startsWith('Finished')"
UNDER_WAY = "document.querySelector('#stip-stats').innerText.startsWith('Streaming')"
# Keeps what is fetched, event streams as well, which a browser's own tools do not keep.
KEEP_FETCHED = """
  window.kept = [];
  const fetched = window.fetch;
  window.fetch = async (...request) => {
    const response = await fetched(...request);
    if (response.body === null) return response;
    const [mine, theirs] = response.body.tee();
    mine.pipeThrough(new TextDecoderStream()).pipeTo(
      new WritableStream({ write: text => void window.kept.push(text) })
    );
    const { status, statusText, headers } = response;
    const copy = new Response(theirs, { status, statusText, headers });
    Object.defineProperty(copy, 'url', { value: response.url });
    return copy;
  };
"""
# Records what changes, each time that it does.
RECORDER = """() => {
  window.recorded = [];
  const look = () => {
    const text = selector => document.querySelector(selector)?.innerText ?? '';
    window.recorded.push({
      under_way: text('#stip-stats').startsWith('Streaming'),
      reply: text('#stip-reply-text'),
      rows: text('#stip-rows'),
      received: text('#stip-received'),
      chart: document.querySelector('#stip-chart svg').innerHTML,
      height: document.documentElement.scrollHeight,
    });
  };
  look();
  new MutationObserver(look).observe(document.body, {childList: true, subtree: true});
}"""


# Seconds that a byte takes each way on a slow line.
SLOW = 0.3


class Line(Proxy):
    """A proxy that can lead to another server, or be down for a while at the same address."""

    def lead_to(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self.cut()

    @contextmanager
    def slow(self) -> Iterator[None]:
        """Bytes take so long that a long reply lasts for minutes, however slow the browser is."""
        delay, self.delay = self.delay, SLOW
        try:
            yield
        finally:
            self.delay = delay

    @contextmanager
    def down(self) -> Iterator[None]:
        address = self._listener.getsockname()
        self.close()
        self.cut()
        yield
        self._listener = socket.create_server(address)
        Thread(target=self._accept, daemon=True).start()


@contextmanager
def page_process(*arguments: object) -> Iterator[str]:
    """`stip-client web` on a free port, as its address. It ends with status 0 when terminated."""
    command = [sys.executable, "-m", "stip_client", "web", "--port", "0", *map(str, arguments)]
    # as where nothing has been said about what Gradio may send
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GRADIO_", "HF_"))}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("listening on "), process.communicate()[1]
            yield line.removeprefix("listening on ").strip()
            process.terminate()
            _, log = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, log
            assert "Traceback" not in log, log
        finally:
            process.kill()


def opened(page: Page, address: str) -> Page:
    """Open the page and wait until its model is loaded and the server has answered."""
    page.goto(address)
    page.get_by_text("serves it").wait_for()
    return page


def send(page: Page, prompt: str) -> None:
    """Type a prompt and send it; what the last reply has left is not to be taken for this one's."""
    page.evaluate("document.querySelector('#stip-stats').textContent = ''")
    page.locator("#stip-prompt textarea").fill(prompt)
    page.locator("#stip-send").click()


def send_for_long(page: Page) -> None:
    """Send a prompt over a slow line, and wait until its reply has begun.

    The reply is greedy: a drawn one might end with its second token.
    """
    page.locator("#stip-max input").fill("128")
    page.locator("#stip-temperature input").fill("0")
    send(page, PROMPT)
    page.wait_for_function(UNDER_WAY)


def send_greedily(page: Page) -> str:
    """Send the prompt as it is on a fresh page; the reply."""
    page.locator("#stip-max input").fill("128")
    page.locator("#stip-temperature input").fill("0")
    send(page, PROMPT)
    page.wait_for_function(FINISHED)
    return reply(page)


def load(page: Page, folder: Path | str) -> None:
    """Type a model folder and load it."""
    page.locator("#stip-folder").locator("input, textarea").fill(str(folder))
    page.locator("#stip-load").click()


def reply(page: Page) -> str:
    """The text of the reply."""
    return page.locator("#stip-reply-text").inner_text()


def assert_no_toast(page: Page) -> None:
    """Gradio has shown nothing of its own."""
    assert page.locator(".toast-wrap .toast-body").count() == 0
    assert page.get_by_text("Traceback").count() == 0
