"""The server: runs a permuted model for clients that send permuted hidden states.

It holds no key, no embedding table and no tokenizer, and never imports stip_keys or stip_client.
"""

__version__ = "0.1.0"
