"""Opens the operations of the device that a server computes on."""

from __future__ import annotations

from stip_model.operations.operations import Operations


def open_operations(*, cpu: bool, dtype: str, bundle_dtype: str, fused: bool) -> Operations:
    """Return the operations of the GPU, or of the CPU where there is none or `cpu` is true.

    dtype is the compute type, or "auto" for the one that suits the device and `bundle_dtype`.
    `fused` compiles each chain of elementwise operations into one kernel. On a CPU that needs a C++
    compiler at run time. The calling thread is the one that must use the operations.
    """
    from stip_model.operations import mlx  # not before the caller has loaded a BLAS

    return mlx.open_operations(cpu=cpu, dtype=dtype, bundle_dtype=bundle_dtype, fused=fused)
