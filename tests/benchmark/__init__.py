"""Measures speed and memory, against mlx-lm and against stated targets: `make bench`."""
