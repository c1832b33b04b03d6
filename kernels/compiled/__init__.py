"""Compiled kernels, counted without running them."""
