"""The developer's tools: keys, permutations, conversion of checkpoints to bundles, inspection.

A client imports `stip_keys.masks` only. This module imports nothing.
"""

__version__ = "0.1.0"
