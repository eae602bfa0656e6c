"""Generated protocol code; see stip/v1."""
