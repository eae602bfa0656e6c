"""Text and numbers as HTML. Everything that the page shows goes through `escape`."""

from __future__ import annotations

from collections.abc import Sequence

# Gradio's HTML component is a template: escape what has a meaning in HTML or in a template.
_ENTITIES = str.maketrans(
    {
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        '"': "&quot;",
        "'": "&#39;",
        "`": "&#96;",
        "$": "&#36;",
        "{": "&#123;",
        "}": "&#125;",
        "\\": "&#92;",
    }
)
MINUS = "−"
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def escape(text: object) -> str:
    """A value's text, for an element's content or a quoted attribute."""
    return str(text).translate(_ENTITIES)


def signed(value: float) -> str:
    """A float as +0.123, with a minus sign as wide as the plus."""
    return f"{value:+.3f}".replace("-", MINUS)


def milliseconds(seconds: float) -> str:
    """A duration in ms, with one decimal below 100."""
    value = seconds * 1e3
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"


def size(count: int) -> str:
    """A number of bytes with its unit."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_BINARY_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_BINARY_UNITS[unit]}" if unit else f"{count} B"


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """A list of names and values; the values must be HTML."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in pairs)
    return f'<dl class="stip-facts">{rows}</dl>'


def pane_head(title: str, subtitle: str) -> str:
    """The head of a pane."""
    return (
        f'<header class="stip-pane-head"><h2>{escape(title)}</h2><p>{escape(subtitle)}</p></header>'
    )


def floats(values: Sequence[float], count: int = 10) -> str:
    """A grid of `count` numbered floats; missing ones stay empty."""
    cells = []
    for index in range(count):
        text = signed(values[index]) if index < len(values) else "·"
        cells.append(f'<span class="stip-cell"><i>{index}</i><b>{text}</b></span>')
    return f'<div class="stip-floats">{"".join(cells)}</div>'


def sentence(text: str, kind: str = "note") -> str:
    """A paragraph: a note, a warning or an error."""
    role = ' role="alert"' if kind == "error" else ""
    return f'<p class="stip-sentence stip-{kind}"{role}>{escape(text)}</p>'
