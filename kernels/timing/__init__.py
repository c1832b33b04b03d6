"""Correctness first, then interleaved timing."""
