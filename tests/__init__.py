"""The tests. This file runs before any of them loads NumPy or MLX."""

import os

# Tests run next to each other, here and in the processes that they start. The threads of BLIS and
# of OpenBLAS wait by spinning: with more than one a process they take the cores from each other.
os.environ.setdefault("BLIS_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
