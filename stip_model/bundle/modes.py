"""A conversion's mode under the names that command lines, key files and reports use.

The scheme says how the weights are masked. The head says where logits are made.
"""

from __future__ import annotations

from stip.v1.manifest_pb2 import Head, Manifest, Scheme

SCHEMES = {
    "permutation": Scheme.SCHEME_PERMUTATION,
    "rotation": Scheme.SCHEME_ROTATION,
    "none": Scheme.SCHEME_NONE,
}
HEADS = {"server": Head.HEAD_SERVER, "client": Head.HEAD_CLIENT, "sealed": Head.HEAD_SEALED}


def scheme_name(scheme: int) -> str:
    """Return the name of a scheme, or "unknown (n)"."""
    return next((name for name, each in SCHEMES.items() if each == scheme), f"unknown ({scheme})")


def head_name(head: int) -> str:
    """Return the name of a head, or "unknown (n)". HEAD_UNSPECIFIED means the server's."""
    head = head or Head.HEAD_SERVER
    return next((name for name, each in HEADS.items() if each == head), f"unknown ({head})")


def output_width(manifest: Manifest) -> int:
    """Return how many values a row of the server's output has.

    That is vocab_size for logits. Where the client has the head it is hidden_size.
    """
    model = manifest.model
    return int(model.hidden_size if manifest.head == Head.HEAD_CLIENT else model.vocab_size)
