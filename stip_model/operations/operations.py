"""Which form of an operation suits the device that computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import mlx.core as mx

from stip_model.operations.attention import Span, attend, attend_on_host
from stip_model.operations.elementwise import rotate, swiglu, swiglu_on_host
from stip_model.operations.selection import top_k, top_k_on_host


class Operations(NamedTuple):
    """`rotate` turns the planes of queries and keys, `swiglu` is the MLP's activation, `top_k`
    finds the largest logits."""

    attend: Callable[[mx.array, Sequence[Span], float], mx.array]
    rotate: Callable[[mx.array, mx.array, mx.array], mx.array]
    swiglu: Callable[[mx.array], mx.array]
    top_k: Callable[[mx.array, int], tuple[mx.array, mx.array, mx.array]]


PLAIN = Operations(attend, rotate, swiglu, top_k)
ON_HOST = Operations(attend_on_host, rotate, swiglu_on_host, top_k_on_host)


def operations(dtype: mx.Dtype, *, on_cpu: bool, fused: bool) -> Operations:
    """The form to compute `dtype` in.

    `fused` has mx.compile make one kernel of each elementwise chain: fewer launches on a GPU; on a
    CPU it calls a C++ compiler at run time.
    """
    chosen = ON_HOST if on_cpu and dtype == mx.float32 else PLAIN
    if fused:
        return chosen._replace(rotate=mx.compile(rotate), swiglu=mx.compile(swiglu))
    return chosen
