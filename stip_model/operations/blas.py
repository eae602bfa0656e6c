"""Puts a fast BLAS in front of the reference BLAS that MLX's Linux wheel brings.

MLX resolves cblas_sgemm through the dynamic linker, so a library that is already in the global
symbol scope when MLX is imported takes the place of the bundled one. Must run before any import of
mlx. Never imports mlx itself.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass

# BLIS first: it is the faster one at matrix-vector products, which is what decoding consists of.
LIBRARIES = {"blis": "libblis.so.4", "openblas": "libopenblas.so.0"}
INSTALL_HINT = (
    "install one: libblis4-pthread (faster decoding) or libopenblas0-pthread "
    "(faster long prompts) on Debian and Ubuntu"
)
CHOICES = ("auto", *LIBRARIES, "bundled")


@dataclass(frozen=True)
class Blas:
    """The BLAS in use: its name, and whether it is the slow bundled one."""

    name: str
    slow: bool = False


def load_blas(choice: str = "auto") -> Blas:
    """Load the library that `choice` names, or with "auto" the first one that the system has.

    Raises OSError if the named library is missing, RuntimeError if mlx is imported already.
    """
    if sys.platform != "linux":
        return Blas("Accelerate" if sys.platform == "darwin" else "the platform's own")
    if "mlx.core" in sys.modules:
        raise RuntimeError("load_blas must run before mlx is imported")
    if choice == "bundled":
        return Blas("the reference BLAS of MLX's wheel", slow=True)
    # BLIS reads this when it is loaded. Its default is one thread.
    os.environ.setdefault("BLIS_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    for name in LIBRARIES if choice == "auto" else (choice,):
        try:
            ctypes.CDLL(LIBRARIES[name], mode=ctypes.RTLD_GLOBAL)
        except OSError:
            if choice != "auto":
                raise
        else:
            return Blas(f"{name} ({LIBRARIES[name]})")
    return Blas("the reference BLAS of MLX's wheel", slow=True)
