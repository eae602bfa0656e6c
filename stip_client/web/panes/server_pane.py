"""The Cloud Server pane as HTML: what the server says it serves and received."""

from __future__ import annotations

from stip.v1.inference_pb2 import GetModelInfoResponse
from stip.v1.manifest_pb2 import Head, Scheme
from stip_client.errors import ClientError
from stip_client.web.error_text import error_text
from stip_client.web.page_model import PageModel
from stip_client.web.panes.markup import escape, facts, floats, pane_head, sentence, signed, size
from stip_client.web.running_reply import KEPT_STEPS, ReplyProgress
from stip_model.bundle.modes import head_name, scheme_name
from stip_model.bundle.weight_types import data_type_name

NO_ECHO = (
    "This server does not report what it receives. To see it, start the server with "
    "stip-server --allow-echo."
)
# A cell of the history is darker for a larger float, up to this size.
SATURATED = 0.25


def head() -> str:
    return pane_head("Cloud Server", "Is sent masked states, and no text, token ids or key.")


def state(
    loaded: PageModel | None, info: GetModelInfoResponse | None, error: ClientError | None = None
) -> str:
    """The server's address, model and load."""
    if loaded is None:
        return facts(
            [(name, "–") for name in ("Address", "Model", "Scheme", "Sessions", "KV memory")]
        )
    address = f'<code id="stip-address">{escape(loaded.client.targets.current.target)}</code>'
    if info is None:
        known = facts(
            [
                ("Address", address),
                *((name, "–") for name in ("Model", "Scheme", "Sessions", "KV memory")),
            ]
        )
        return known + (sentence(error_text(error), "error") if error is not None else "")
    model, load, limits = info.model, info.load, info.limits
    waiting = f", {load.waiting_opens} waiting" if load.waiting_opens else ""
    scheme = scheme_name(info.scheme)
    if info.scheme == Scheme.SCHEME_NONE:
        scheme += " (hides nothing)"
    if info.head > Head.HEAD_SERVER:
        scheme += f", head {head_name(info.head)}"
    compute = data_type_name(info.compute_dtype)
    share = load.kv_bytes_reserved / limits.kv_bytes if limits.kv_bytes else 0.0
    meter = f'<span class="stip-meter"><i style="width:{100 * share:.1f}%"></i></span>'
    shape = f"{model.num_hidden_layers} layers of {model.hidden_size}"
    return facts(
        [
            ("Address", address),
            ("Model", f"{escape(model.model_type)}, {shape}, {compute}"),
            ("Scheme", escape(scheme)),
            (
                "Sessions",
                f'<b class="stip-number" id="stip-sessions">{load.sessions}</b> '
                f"of {limits.max_sessions}{waiting}",
            ),
            (
                "KV memory",
                f"{size(load.kv_bytes_reserved)} of {size(limits.kv_bytes)} {meter}",
            ),
        ]
    )


def received(reply: ReplyProgress | None) -> str:
    """The first ten floats of the last step as received, and shades of earlier steps."""
    last = reply.floats[-1] if reply is not None and reply.floats else None
    step = f"step {last.step}" if last is not None else "no step yet"
    note = sentence(NO_ECHO, "warning") if reply is not None and reply.echo_refused else ""
    return (
        '<div class="stip-label-row"><h3>First ten floats, as received</h3>'
        f'<span class="stip-step" id="stip-step">{step}</span></div>'
        f'<div id="stip-received">{floats(last.received if last is not None else ())}</div>'
        f"{note}{_history(reply)}"
    )


def _history(reply: ReplyProgress | None) -> str:
    """One row of shades a step, the newest first. Empty rows keep the pane from growing."""
    known = list(reversed(reply.floats)) if reply is not None else []
    rows = []
    for place in range(KEPT_STEPS):
        if place >= len(known):
            rows.append(f'<li><span class="stip-at"></span>{"<i></i>" * 10}</li>')
            continue
        cells = "".join(
            f'<i class="{"stip-plus" if value >= 0 else "stip-minus"}" '
            f'style="--shade:{min(1.0, abs(value) / SATURATED):.2f}" title="{signed(value)}"></i>'
            for value in known[place].received
        )
        rows.append(f'<li><span class="stip-at">{known[place].step}</span>{cells}</li>')
    return (
        '<div class="stip-label-row"><h3>Step by step</h3>'
        '<span class="stip-scale"><i class="stip-minus"></i>negative'
        '<i class="stip-plus"></i>positive</span></div>'
        f'<ol class="stip-history">{"".join(rows)}</ol>'
    )
