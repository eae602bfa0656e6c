"""The Key Center as HTML: fingerprints and first indices of the masks in use, but no key."""

from __future__ import annotations

from collections.abc import Sequence

from stip.v1.manifest_pb2 import Scheme
from stip_client.web.page_model import PageModel
from stip_client.web.panes.markup import escape, facts, pane_head, sentence
from stip_client.web.running_reply import ReplyProgress
from stip_client.web.shown_masks import ShownMask

NO_MASTER = (
    '<p class="stip-sentence stip-note">The client&#39;s key holds only this. The masks '
    "inside the layers appear if the page is started with the developer&#39;s master key: "
    "<code>--key master.key</code>.</p>"
)
HIDES_NOTHING = "This bundle's scheme is none: prompts are sent unmasked, and nothing is hidden."


def head() -> str:
    return pane_head("Key Center", "The key never leaves this process, and is never shown.")


def counters(loaded: PageModel | None, reply: ReplyProgress | None) -> str:
    """The key in use, and the number of rows that it masked for the last reply."""
    rows = sum(step.rows for step in reply.steps) if reply is not None else 0
    if loaded is None:
        return facts([("Client key", "–"), ("Rows masked", "–")])
    key_id = escape(loaded.client.bundle.manifest.key_id)
    mask = escape(loaded.input.name)
    halves = f"{key_id[:16]}<wbr>{key_id[16:]}"
    return facts(
        [
            ("Client key", f'<code class="stip-id" id="stip-key-id">{halves}</code>'),
            ("Rows masked", f'<b class="stip-number" id="stip-rows">{rows}</b> with {mask}'),
        ]
    )


def permutations(loaded: PageModel | None) -> str:
    """Every permutation and rotation that the loaded keys give."""
    if loaded is None:
        return '<p class="stip-empty">No model is loaded.</p>'
    body = ""
    if loaded.client.bundle.manifest.scheme == Scheme.SCHEME_NONE:
        body += sentence(HIDES_NOTHING, "warning")
    body += _group("Input", [loaded.input, *loaded.blocks])
    body += _group("Output", loaded.outputs)
    if not loaded.layer:
        return body + NO_MASTER
    body += _group("Layer 0", loaded.layer)
    return body + _group("Residual stream of the following layers", loaded.residuals)


def _group(title: str, shown: Sequence[ShownMask]) -> str:
    if not shown:
        return ""
    items = "".join(map(_item, shown))
    return f'<h3>{escape(title)}</h3><ul class="stip-permutations">{items}</ul>'


def _item(shown: ShownMask) -> str:
    more = " …" if shown.length > len(shown.first) else ""
    width = max((len(str(index)) for index in shown.first), default=0)
    indices = " ".join(f"{index:{width}d}".replace(" ", "\u2007") for index in shown.first)
    fingerprint = f'<code class="stip-id">{escape(shown.fingerprint)}</code>'
    return (
        f'<li title="{escape(shown.label)}"><div>'
        f'<span class="stip-name">{escape(shown.name)}</span>'
        f'<span class="stip-of">{escape(shown.of)}</span></div><div>'
        f'<span class="stip-indices">{escape(indices)}{more}</span>'
        f"{fingerprint if shown.fingerprint else ''}</div></li>"
    )
