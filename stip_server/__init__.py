"""The server: runs a permuted model for clients that send permuted hidden states.

Holds no key, no embedding table and no tokenizer; never imports stip_keys or stip_client.
"""

__version__ = "0.1.0"
