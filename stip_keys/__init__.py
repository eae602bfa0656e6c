"""The developer's tools: keys, permutations, conversion of checkpoints to bundles, inspection.

A client imports only `stip_keys.keys`, `stip_keys.keyfile`, `stip_keys.derivation`,
`stip_keys.permutation`, `stip_keys.rotation`, `stip_keys.passphrase`, `stip_keys.signature`,
`stip_keys.modes` and `stip_keys.errors`; this module therefore imports nothing.
"""

__version__ = "0.1.0"
