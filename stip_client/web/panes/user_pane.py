"""The User pane below its form, as HTML: the reply, and the floats before masking."""

from __future__ import annotations

from stip_client.web.error_text import error_text
from stip_client.web.panes.markup import escape, floats, milliseconds, pane_head, sentence
from stip_client.web.running_reply import ReplyProgress

TAG = "computed on masked states"
_STAGES = {
    "waiting": "Sent, waiting for the first token …",
    "streaming": "Streaming …",
    "stopped": "Stopped",
    "failed": "Failed",
}
_REASONS = {
    "stop": "Finished",
    "length": "Finished: the maximum number of tokens is reached",
    None: "Finished",
}


def head() -> str:
    return pane_head("User", "Text, token ids and embeddings stay on this machine.")


def reply_text(reply: ReplyProgress | None) -> str:
    """The reply so far."""
    if reply is None:
        body = '<p class="stip-empty">The reply appears here, token by token.</p>'
    else:
        caret = '<span class="stip-caret"></span>' if reply.under_way else ""
        text = f'<p class="stip-text" id="stip-reply-text">{escape(reply.text)}{caret}</p>'
        body = text if reply.text or reply.error is None else ""
        if reply.error is not None:
            body += sentence(error_text(reply.error), "error")
    return f'<div class="stip-reply">{body}</div>'


def reply_head(reply: ReplyProgress | None) -> str:
    """The line above the reply: that it was computed on masked states."""
    tagged = " stip-on" if reply is not None and reply.tokens else ""
    return (
        '<div class="stip-label-row"><h3>Reply</h3>'
        f'<span class="stip-tag{tagged}">{TAG}</span></div>'
    )


def reply_foot(reply: ReplyProgress | None) -> str:
    """The line below the reply, and the floats of the last step before masking."""
    last = reply.floats[-1].unmasked if reply is not None and reply.floats else ()
    return (
        f'<p class="stip-stats" id="stip-stats">{escape(stats(reply))}</p>'
        '<div class="stip-label-row"><h3>First ten floats, before masking</h3></div>'
        f"{floats(last)}"
    )


def stats(reply: ReplyProgress | None) -> str:
    """Stage, number of tokens and speed."""
    if reply is None:
        return "Nothing sent yet"
    stage = _STAGES.get(reply.stage) or _REASONS[reply.finish_reason]
    if not reply.tokens:
        return stage
    parts = [stage.removesuffix(" …"), f"{reply.tokens} token" + "s" * (reply.tokens > 1)]
    if reply.tokens_per_second:
        parts.append(f"{reply.tokens_per_second:.1f} tokens/s")
    return " · ".join([*parts, f"first after {milliseconds(reply.first_after)}"])
