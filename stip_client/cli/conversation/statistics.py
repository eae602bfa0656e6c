"""The table of `/stats`."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from stip_client.cli.reply_timing import ReplyTiming, rates, shown_bytes


def table(replies: Sequence[ReplyTiming]) -> str:
    """The last reply next to all replies, one line a figure."""
    last, total = _column(replies[-1:]), _column(replies)
    lines = [f"{'':<28}{'last reply':>14}{f'all {len(replies)}':>14}"]
    lines += [f"{name:<28}{last[name]:>14}{total[name]:>14}" for name in last]
    return "\n".join(lines)


def _column(replies: Sequence[ReplyTiming]) -> dict[str, str]:
    found = rates(replies)
    firsts = [each.first_token for each in replies if each.first_token is not None]
    up, down = found.bytes_up, found.bytes_down
    return {
        "prompt tokens": f"{sum(each.prompt_tokens for each in replies)}",
        "of them sent": f"{sum(each.rows for each in replies)}",
        "reply tokens": f"{sum(each.tokens for each in replies)}",
        "first token after (median)": f"{median(firsts) * 1e3:.0f} ms" if firsts else "-",
        "tokens/s": _number(found.tokens_per_second),
        "tokens a round trip": _number(found.tokens_per_round_trip),
        "up a token": "-" if up is None else shown_bytes(up),
        "down a token": "-" if down is None else shown_bytes(down),
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"
