"""The page: its layout, and what its buttons do.

Each open page has a `Tab` of its own. Tabs that load the same folder share its client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from stip.v1.inference_pb2 import GetModelInfoResponse
from stip_client.errors import ClientError, RequestError
from stip_client.web.error_text import error_text
from stip_client.web.page_model import ModelLoader, PageModel
from stip_client.web.panes import chart, key_pane, server_pane, user_pane
from stip_client.web.panes.markup import escape
from stip_client.web.running_reply import ReplyProgress, RunningReply

TITLE = "STIP"
MAX_NEW_TOKENS = 128
# Seconds between two requests for the server's load while no reply runs.
LOAD_INTERVAL = 10.0
BRAND = "<h1>STIP</h1><p>Your prompt stays here; the server computes on masked hidden states.</p>"
FOOT = (
    '<p class="stip-foot">A mask is no encryption: it hides prompt and weights only from '
    "those who do not know the base weights, and logits in vocabulary order show the server the "
    "reply. See SECURITY.md.</p>"
)

Updates = dict[Any, Any]


@dataclass
class Tab:
    """One open page: its loaded model, and its last reply."""

    loaded: PageModel | None = None
    running: RunningReply | None = None

    @property
    def busy(self) -> bool:
        """Whether a reply runs."""
        return self.running is not None and self.running.reply.under_way


class Page:
    """The layout, connected to a loader. Gradio serves `blocks`."""

    def __init__(self, loader: ModelLoader, folder: str) -> None:
        """Opening a page loads `folder`, unless it is empty."""
        self._loader = loader
        with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as self.blocks:
            self._tab = gr.State(Tab())
            self._lay_out(folder)
            self._wire()

    # -- the layout ------------------------------------------------------------------------------

    def _lay_out(self, folder: str) -> None:
        with gr.Row(elem_classes="stip-bar"):
            _html(BRAND, elem_classes="stip-brand")
            self._folder = gr.Textbox(
                folder,
                label="Model folder",
                placeholder="bundles",
                max_lines=1,
                interactive=not self._loader.fixed,
                elem_id="stip-folder",
                elem_classes="stip-folder",
            )
            self._load = gr.Button("Load", elem_id="stip-load", elem_classes="stip-load")
        self._status = _html(status("Starting"), elem_id="stip-status")
        with gr.Row(elem_classes="stip-panes"):
            with gr.Column(elem_classes=["stip-pane", "stip-user"]):
                self._lay_out_user()
            with gr.Column(elem_classes=["stip-pane", "stip-keys"], elem_id="stip-keys"):
                _html(key_pane.head())
                self._counters = _html(key_pane.counters(None, None))
                self._permutations = _html(
                    key_pane.permutations(None),
                    elem_classes=["stip-permutation-box", "stip-scroll"],
                )
            with gr.Column(elem_classes=["stip-pane", "stip-server"], elem_id="stip-server"):
                _html(server_pane.head())
                self._server = _html(server_pane.state(None, None))
                self._received = _html(server_pane.received(None))
        self._chart = _html(chart.chart([]))
        _html(FOOT)
        self._timer = gr.Timer(LOAD_INTERVAL)

    def _lay_out_user(self) -> None:
        _html(user_pane.head())
        self._prompt = gr.Textbox(
            label="Prompt",
            placeholder="Hello, how are you?   (Shift + Enter sends)",
            lines=2,
            max_lines=6,
            autofocus=True,
            elem_id="stip-prompt",
        )
        with gr.Row(elem_classes="stip-numbers"):
            # no minimum here: Gradio would show its own message
            self._max_new_tokens = gr.Number(
                MAX_NEW_TOKENS, label="Maximum tokens", precision=0, elem_id="stip-max"
            )
            self._temperature = gr.Number(
                0.0, label="Temperature", step=0.1, elem_id="stip-temperature"
            )
        with gr.Row(elem_classes="stip-buttons"):
            self._send = gr.Button("Send", variant="primary", elem_id="stip-send")
            self._stop = gr.Button("Stop", interactive=False, elem_id="stip-stop")
        self._reply_head = _html(user_pane.reply_head(None))
        self._reply_text = _html(
            user_pane.reply_text(None),
            elem_id="stip-reply",
            elem_classes=["stip-reply-box", "stip-scroll"],
            autoscroll=True,
        )
        self._reply_foot = _html(user_pane.reply_foot(None))

    def _wire(self) -> None:
        quiet: Any = {"show_progress": "hidden", "api_visibility": "private"}
        loading: Any = {
            "fn": self._on_load,
            "inputs": [self._folder, self._tab],
            "outputs": [self._status, self._counters, self._permutations, self._server, self._send],
            **quiet,
        }
        self.blocks.load(**loading)
        gr.on([self._load.click, self._folder.submit], **loading, concurrency_limit=None)
        gr.on(
            [self._send.click, self._prompt.submit],
            self._on_send,
            inputs=[self._prompt, self._max_new_tokens, self._temperature, self._tab],
            outputs=[
                self._status,
                self._counters,
                self._server,
                self._received,
                self._reply_head,
                self._reply_text,
                self._reply_foot,
                self._chart,
                self._send,
                self._stop,
                self._load,
            ],
            concurrency_limit=None,  # each tab runs one at a time: trigger_mode "once"
            **quiet,
        )
        self._stop.click(
            self._on_stop,
            inputs=[self._tab],
            outputs=[self._send, self._stop, self._load],
            queue=False,
            **quiet,
        )
        self._timer.tick(
            self._on_timer,
            inputs=[self._tab],
            outputs=[self._server],
            concurrency_limit=None,
            **quiet,
        )

    # -- what the buttons do ---------------------------------------------------------------------

    async def _on_load(self, folder: str, tab: Tab) -> Updates:
        if tab.busy:
            return {self._status: status("A reply is under way. Stop it first.", "bad")}
        if not folder.strip() and tab.loaded is None:
            text = "No model is loaded. Give the folder that stip-keys convert wrote, and load it."
            return {self._status: status(text)}
        try:
            tab.loaded = await asyncio.to_thread(self._loader.load, folder)
        except ClientError as error:
            return {self._status: status(error_text(error), "bad")}
        info, failure = await _ask_server(tab.loaded)
        return {
            self._status: _loaded_status(tab.loaded, info, failure),
            self._counters: key_pane.counters(tab.loaded, None),
            self._permutations: key_pane.permutations(tab.loaded),
            self._server: server_pane.state(tab.loaded, info, failure),
        }

    async def _on_send(
        self,
        prompt: str,
        max_new_tokens: int | None,
        temperature: float | None,
        tab: Tab,
    ) -> AsyncIterator[Updates]:
        if tab.running is not None:
            tab.running.stop()  # its updates were lost on the way, or it has ended
        if tab.loaded is None or max_new_tokens is None or temperature is None:
            missing = "model is loaded" if tab.loaded is None else "maximum or temperature is given"
            reply = ReplyProgress("failed", error=RequestError(f"no {missing}"))
            yield {self._reply_text: user_pane.reply_text(reply)}
            return
        loaded = tab.loaded
        run = tab.running = RunningReply(
            loaded, prompt, max_new_tokens=max_new_tokens, temperature=temperature
        )
        yield self._updates(loaded, run)
        # Gradio closes this generator when the tab is closed, and that stops the run
        async with aclosing(run.frames()) as frames:
            async for _ in frames:
                yield self._updates(loaded, run)

    def _updates(self, loaded: PageModel, run: RunningReply) -> Updates:
        """Everything that changes while a reply runs."""
        reply = run.reply
        updates = {
            self._status: _run_status(loaded, reply),
            self._counters: key_pane.counters(loaded, reply),
            self._received: server_pane.received(reply),
            self._reply_head: user_pane.reply_head(reply),
            self._reply_text: user_pane.reply_text(reply),
            self._reply_foot: user_pane.reply_foot(reply),
            self._chart: chart.chart(reply.steps),
            **self._buttons(under_way=reply.under_way),
        }
        if run.info is not None:
            updates[self._server] = server_pane.state(loaded, run.info)
        elif reply.error is not None:
            updates[self._server] = server_pane.state(loaded, None)
        return updates

    def _buttons(self, *, under_way: bool) -> Updates:
        return {
            self._send: gr.update(interactive=not under_way),
            self._stop: gr.update(interactive=under_way),
            self._load: gr.update(interactive=not under_way),
        }

    async def _on_stop(self, tab: Tab) -> Updates:
        if tab.running is not None:
            tab.running.stop()
        # the reply's last update says so too, but may be lost on the way
        return self._buttons(under_way=False)

    async def _on_timer(self, tab: Tab) -> Updates:
        if tab.loaded is None or tab.busy:
            return {self._server: gr.skip()}
        info, error = await _ask_server(tab.loaded)
        if tab.busy:
            return {self._server: gr.skip()}
        return {self._server: server_pane.state(tab.loaded, info, error)}


def _html(value: str, **options: Any) -> Any:
    """An HTML component without Gradio's style for text."""
    return gr.HTML(value, apply_default_css=False, js_on_load=None, **options)


def status(text: str, kind: str = "") -> str:
    """The line below the bar; kind: good, busy or bad."""
    role = "alert" if kind == "bad" else "status"
    return f'<p class="stip-status stip-{kind}" role="{role}">{escape(text)}</p>'


async def _ask_server(
    loaded: PageModel,
) -> tuple[GetModelInfoResponse | None, ClientError | None]:
    """The server's model and load, or why there is no answer."""
    try:
        return await loaded.client.model_info(), None
    except ClientError as error:
        return None, error


def _loaded_status(
    loaded: PageModel, info: GetModelInfoResponse | None, error: ClientError | None
) -> str:
    manifest = loaded.client.bundle.manifest
    name = f"{loaded.folder} is loaded"
    if info is None:
        why = error_text(error) if error is not None else ""
        return status(f"{name}, but the server does not answer. {why}", "bad")
    if (info.key_id, info.bundle_id) != (manifest.key_id, manifest.bundle_id):
        return status(
            f"{name}, but the server serves another model. Load the client bundle that was "
            "converted together with the server's.",
            "bad",
        )
    return status(f"{name}, and the server at {_target(loaded)} serves it.", "good")


def _run_status(loaded: PageModel, reply: ReplyProgress) -> str:
    if reply.under_way:
        return status(f"A reply is under way from {_target(loaded)}.", "busy")
    if reply.error is not None:
        return status("The reply has failed; the User pane says why.", "bad")
    return status(f"Ready: {loaded.folder} at {_target(loaded)}.", "good")


def _target(loaded: PageModel) -> str:
    return loaded.client.targets.current.target
