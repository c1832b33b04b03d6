"""Kernels that read and write each element once: pruning, packing and unpacking."""
