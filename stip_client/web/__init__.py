"""The three-pane page: `stip-client web` (an extra: Gradio).

Files that only turn values into HTML know nothing of Gradio: markup, chart, user_pane, key_pane,
server_pane. permutations, loading and reply know nothing of HTML. page.py puts them together.
"""
