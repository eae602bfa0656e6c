"""The developer's tools: keys, conversion of checkpoints to bundles, inspection, audit.

A client imports `stip_keys.masks` only. This module imports nothing.
"""

__version__ = "0.1.0"
