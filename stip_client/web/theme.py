"""Gradio's components in the colours of style.css."""

from __future__ import annotations

from importlib import resources
from typing import Any

import gradio as gr

# Fonts of the reader's system: none is fetched.
SANS = (
    "ui-sans-serif",
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Noto Sans",
    "sans-serif",
)
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")

_COLOURS = {
    "body_background_fill": "page",
    "body_text_color": "ink",
    "body_text_color_subdued": "muted",
    "background_fill_primary": "panel",
    "background_fill_secondary": "sunken",
    "border_color_primary": "line",
    "border_color_accent": "accent",
    "color_accent_soft": "sunken",
    "block_title_text_color": "muted",
    "block_label_text_color": "muted",
    "block_info_text_color": "muted",
    "input_background_fill": "sunken",
    "input_background_fill_focus": "panel",
    "input_border_color": "edge",
    "input_border_color_focus": "accent",
    "input_border_color_hover": "muted",
    "input_placeholder_color": "muted",
    "button_primary_background_fill": "accent",
    "button_primary_background_fill_hover": "accent-strong",
    "button_primary_border_color": "accent",
    "button_primary_border_color_hover": "accent-strong",
    "button_primary_text_color": "on-accent",
    "button_primary_text_color_hover": "on-accent",
    "button_secondary_background_fill": "panel",
    "button_secondary_background_fill_hover": "sunken",
    "button_secondary_border_color": "edge",
    "button_secondary_border_color_hover": "muted",
    "button_secondary_text_color": "ink",
    "button_secondary_text_color_hover": "ink",
    "loader_color": "accent",
}
_FLAT = {
    "block_background_fill": "transparent",
    "block_border_width": "0px",
    "block_shadow": "none",
    "block_padding": "0px",
    "block_radius": "0px",
    "block_title_text_size": "13px",
    "block_title_text_weight": "600",
    "block_title_background_fill": "transparent",
    "input_shadow": "none",
    "input_shadow_focus": "none",
    "input_border_width": "1px",
    "input_radius": "8px",
    "input_padding": "9px 12px",
    "input_text_size": "15px",
    "layout_gap": "16px",
    "form_gap_width": "0px",
    "button_primary_shadow": "none",
    "button_secondary_shadow": "none",
    "button_large_radius": "8px",
    "button_large_padding": "9px 18px",
    "button_large_text_size": "15px",
}


def theme() -> Any:
    """A flat theme in which every colour is a variable of style.css, light and dark."""
    made = gr.themes.Base(font=list(SANS), font_mono=list(MONO))
    values = _FLAT | {name: f"var(--stip-{colour})" for name, colour in _COLOURS.items()}
    both = {f"{name}_dark": value for name, value in values.items()}
    dark = {name: value for name, value in both.items() if hasattr(made, name)}
    return made.set(**values, **dark)


def style() -> str:
    """The page's style sheet, for its head. Gradio would rewrite the selectors of its `css`."""
    sheet = (resources.files("stip_client.web") / "style.css").read_text(encoding="utf-8")
    return f"<style>{sheet}</style>"
