"""Measures speed, waiting and memory, against mlx-lm and stated targets: `make bench`."""
