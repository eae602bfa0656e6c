"""The three-pane page: `stip-client web` (an extra: Gradio).

panes/ turns values into HTML and knows no Gradio. page_model, running_reply and shown_masks know
no HTML. page.py connects them.
"""
